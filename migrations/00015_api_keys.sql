-- Keys with which servers call what is for operators. It only adds: the binary before lets no
-- key in and is not disturbed.

-- +goose Up

CREATE TABLE api_keys (
    id           uuid        PRIMARY KEY, -- the actor of its lines in the activity log
    name         text        NOT NULL,
    scopes       text[]      NOT NULL,    -- admin.Scope
    hash         bytea       NOT NULL,    -- SHA-256 of the key, which nobody has kept
    hash_used_at timestamptz,             -- when it was used first; before that somebody may not have got it
    old_hash     bytea,                   -- of what servers had before the last rotation
    old_until    timestamptz,             -- until when that is good
    created_at   timestamptz NOT NULL,
    created_by   text        NOT NULL,    -- user:<id>, or operator:<whoever was at the console>
    expires_at   timestamptz,
    rotated_at   timestamptz,
    last_used_at timestamptz,             -- written once a minute
    revoked_at   timestamptz
);
-- What is said of a name is said of one key.
CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_at IS NULL;

-- +goose Down

DROP TABLE api_keys;
