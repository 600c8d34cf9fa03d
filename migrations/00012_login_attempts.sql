-- How often passwords were tried lately, by account and by address. It only adds: the binary
-- before counts nothing and is not disturbed.

-- +goose Up

CREATE TABLE login_attempts (
    key         bytea            PRIMARY KEY, -- a kind and a hash of whom or what it counts
    user_id     uuid,                         -- of a place from which this user has logged in; NULL for all else
    failures    double precision NOT NULL,    -- as of counted_at; they fade from then on
    counted_at  timestamptz      NOT NULL,
    waits_until timestamptz      NOT NULL,    -- before that no attempt is admitted
    forget_at   timestamptz      NOT NULL     -- from then on the row says nothing
);
CREATE INDEX login_attempts_forget ON login_attempts (forget_at);
CREATE INDEX login_attempts_user ON login_attempts (user_id) WHERE user_id IS NOT NULL;

-- +goose Down

DROP TABLE login_attempts;
