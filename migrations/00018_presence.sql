-- When those who share their presence were last online. It only adds.

-- +goose Up

-- Written by the gateways, in batches, when somebody's last socket ends and now and then
-- before; only of users who share, and gone when they no longer do.
CREATE TABLE presence (
    user_id uuid        PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- +goose Down

DROP TABLE presence;
