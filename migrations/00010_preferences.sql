-- Read marks, what a user wants to be pushed, and what a user agreed to at registration.
-- It only adds, so that the binary before works on this schema too.

-- +goose Up

-- Up to where the user has read their inbox. Beside the head, whose lock it needs.
ALTER TABLE user_streams ADD COLUMN read_seq bigint NOT NULL DEFAULT 0;

-- What a user wants of pushes, beyond users.push_preview; no row is the defaults. Written
-- under the lock of the user's stream.
CREATE TABLE push_preferences (
    user_id    uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    muted      text[]      NOT NULL DEFAULT '{}', -- partner.Category
    quiet      boolean     NOT NULL,              -- whether the quiet hours hold
    quiet_from smallint    NOT NULL CHECK (quiet_from BETWEEN 0 AND 1439), -- minutes of the user's own day
    quiet_to   smallint    NOT NULL CHECK (quiet_to BETWEEN 0 AND 1439),
    updated_at timestamptz NOT NULL,
    CHECK (NOT quiet OR quiet_from <> quiet_to)
);

-- Which version of the terms the user agreed to at registration, and when; NULL where none
-- was asked.
ALTER TABLE users
    ADD COLUMN consent_version text,
    ADD COLUMN consented_at    timestamptz;

-- +goose Down

ALTER TABLE users DROP COLUMN consented_at, DROP COLUMN consent_version;
DROP TABLE push_preferences;
ALTER TABLE user_streams DROP COLUMN read_seq;
