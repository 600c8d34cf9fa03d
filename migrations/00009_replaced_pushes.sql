-- A push that an ending takes back after it was sent is replaced on the phone. It only
-- adds: the binary before settles such rows as withdrawn, without a replacement.

-- +goose Up

ALTER TABLE push_deliveries
    ADD COLUMN handed_at timestamptz, -- when a call was first known to have, perhaps, put it on the phone
    ADD COLUMN cut_at    timestamptz; -- when the notifier found that an ending took back what may be there
-- What an ending finds to replace, and what a later push of the same thing has replaced already.
CREATE INDEX push_deliveries_handed ON push_deliveries (user_id, seq)
    WHERE cut_at IS NULL AND (status = 2 OR handed_at IS NOT NULL OR outcome = 'delivered');
-- The end of an account takes back what everybody has of it.
CREATE INDEX cuts_origin ON cuts (origin);

-- +goose Down

DROP INDEX cuts_origin;
DROP INDEX push_deliveries_handed;
ALTER TABLE push_deliveries DROP COLUMN cut_at, DROP COLUMN handed_at;
