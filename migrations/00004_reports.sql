-- What ingest alone writes: reports, and which ended partnerships a user has deleted
-- their own copy of.

-- +goose Up

-- Somebody's complaint about somebody. The reported one never learns of it.
CREATE TABLE reports (
    id         uuid PRIMARY KEY,
    reporter   uuid        NOT NULL,
    target     uuid        NOT NULL,
    reason     text        NOT NULL,
    detail     text        NOT NULL DEFAULT '',
    status     smallint    NOT NULL DEFAULT 1, -- 1 open
    created_at timestamptz NOT NULL,
    CHECK (reporter <> target)
);
CREATE INDEX reports_queue ON reports (created_at, id) WHERE status = 1;
CREATE INDEX reports_reporter ON reports (reporter, created_at DESC);
CREATE INDEX reports_target ON reports (target);

-- The member's own copy is gone from their history since then. A partnership that is
-- restored and ends again is history anew.
ALTER TABLE partnership_members ADD COLUMN deleted_at timestamptz;

-- +goose Down

ALTER TABLE partnership_members DROP COLUMN deleted_at;
DROP TABLE reports;
