-- Refresh tokens form a chain per session. The session knows its family, the token
-- before the current one, and the current one sealed under that parent: so a lost
-- answer can be asked for again, and an older ancestor's replay is recognised.

-- +goose Up

ALTER TABLE sessions
    ADD COLUMN family_hash   bytea, -- SHA-256 of what all tokens of the session share
    ADD COLUMN previous_hash bytea, -- SHA-256 of the current token's parent
    ADD COLUMN sealed_child  bytea, -- the current token, readable with its parent only
    ADD COLUMN rotated_at    timestamptz;
CREATE UNIQUE INDEX sessions_family ON sessions (family_hash);

CREATE INDEX realtime_tickets_session ON realtime_tickets (session_id, expires_at);
CREATE INDEX realtime_tickets_expiry ON realtime_tickets (expires_at);
CREATE INDEX realtime_tickets_user ON realtime_tickets (user_id);

-- +goose Down

DROP INDEX realtime_tickets_user;
DROP INDEX realtime_tickets_expiry;
DROP INDEX realtime_tickets_session;
DROP INDEX sessions_family;
ALTER TABLE sessions
    DROP COLUMN rotated_at,
    DROP COLUMN sealed_child,
    DROP COLUMN previous_hash,
    DROP COLUMN family_hash;
