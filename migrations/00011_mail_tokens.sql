-- Links by mail: to a new password, and to show that an e-mail address is one's own.
-- It only adds, so that the binary before works on this schema too.

-- +goose Up

-- Since when the address is known to be its owner's; NULL: not yet.
ALTER TABLE credentials ADD COLUMN verified_at timestamptz;

-- What a link holds, used once. Made and used up under the account's lock.
CREATE TABLE mail_tokens (
    hash       bytea PRIMARY KEY, -- SHA-256 of the token
    user_id    uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    purpose    smallint    NOT NULL CHECK (purpose IN (1, 2)), -- accounts.purpose
    email      text        NOT NULL, -- to which it went: it is good for no other
    expires_at timestamptz NOT NULL
);
CREATE INDEX mail_tokens_user ON mail_tokens (user_id, purpose);
CREATE INDEX mail_tokens_expiry ON mail_tokens (expires_at);

-- +goose Down

DROP TABLE mail_tokens;
ALTER TABLE credentials DROP COLUMN verified_at;
