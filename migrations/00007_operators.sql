-- What operators decide: on reports, and on how many slots a user has.

-- +goose Up

ALTER TABLE reports
    ADD COLUMN resolution  smallint,                 -- admin.Resolution; status is 2 then
    ADD COLUMN note        text NOT NULL DEFAULT '', -- of who resolved it, for other operators
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolved_by uuid,                     -- the nil id: at a console
    -- Since when its texts are kept for safety alone: resolved, or one of the two erased.
    ADD COLUMN closed_at   timestamptz;
CREATE INDEX reports_all ON reports (created_at, id);
CREATE INDEX reports_closed ON reports (closed_at) WHERE closed_at IS NOT NULL AND reason <> '';
-- Of accounts that were erased before this schema.
UPDATE reports r SET closed_at = now()
WHERE EXISTS (SELECT FROM users u WHERE u.id IN (r.reporter, r.target) AND u.status = 4);

-- How many slots an operator has given the user; NULL: as many as the tier brings.
ALTER TABLE users ADD COLUMN slots_total smallint CHECK (slots_total > 0);

-- +goose Down

ALTER TABLE users DROP COLUMN slots_total;
DROP INDEX reports_closed;
DROP INDEX reports_all;
ALTER TABLE reports
    DROP COLUMN closed_at,
    DROP COLUMN resolved_by,
    DROP COLUMN resolved_at,
    DROP COLUMN note,
    DROP COLUMN resolution;
