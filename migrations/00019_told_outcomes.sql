-- Whether the pushes topic has been told how a delivery ended. Every statement can be run
-- again, since an index on a table in use is made outside of a transaction.

-- +goose NO TRANSACTION
-- +goose Up

-- True until somebody writes that it was told: so what settles a delivery and knows nothing
-- of it, such as the binary before, leaves the outcome to be told. What was settled before
-- this is history, and is not told.
ALTER TABLE push_deliveries ADD COLUMN IF NOT EXISTS untold boolean NOT NULL DEFAULT false;
ALTER TABLE push_deliveries ALTER COLUMN untold SET DEFAULT true;
UPDATE push_deliveries SET untold = true WHERE status < 3 AND NOT untold;
DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_untold; -- one that was left half made
CREATE INDEX CONCURRENTLY push_deliveries_untold ON push_deliveries (settled_at) WHERE untold AND status = 3;
-- What became of an event's pushes, for operators.
DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_event;
CREATE INDEX CONCURRENTLY push_deliveries_event ON push_deliveries (event_id);

-- +goose Down

DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_event;
DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_untold;
ALTER TABLE push_deliveries DROP COLUMN IF EXISTS untold;
