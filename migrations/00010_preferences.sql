-- Read marks, what a user wants to be pushed, and what a user agreed to at registration.
-- It only adds, so that the binary before works on this schema too.

-- +goose Up

-- Up to where the user has read their inbox. Beside the head, whose lock it needs.
ALTER TABLE user_streams ADD COLUMN read_seq bigint NOT NULL DEFAULT 0;

-- +goose Down

ALTER TABLE user_streams DROP COLUMN read_seq;
