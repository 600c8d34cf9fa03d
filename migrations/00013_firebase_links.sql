-- Logins by Firebase Auth, linked by the subject of its tokens. It only adds: the binary
-- before neither reads nor writes what is here.

-- +goose Up

-- Who a subject of a Firebase project is here.
CREATE TABLE firebase_links (
    project   text        NOT NULL, -- subjects are of a project: another one's are other people
    subject   text        NOT NULL,
    user_id   uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    linked_at timestamptz NOT NULL,
    PRIMARY KEY (project, subject)
);
CREATE INDEX firebase_links_user ON firebase_links (user_id, linked_at);

-- When the session's owner showed who they are, where that was before the session began: with
-- Firebase one can have signed in long ago. NULL: when it began.
ALTER TABLE sessions ADD COLUMN authenticated_at timestamptz;

-- +goose Down

ALTER TABLE sessions DROP COLUMN authenticated_at;
DROP TABLE firebase_links;
