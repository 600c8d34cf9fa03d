-- Keeping things no longer than is said: how far the clean-up is, the indexes that it finds
-- old rows by, and the three things that may ever happen to a row of the activity log after
-- it was written. Every statement can be run again, since indexes on tables in use are made
-- outside of a transaction.

-- +goose NO TRANSACTION
-- +goose Up

-- How far each task of the clean-up is. It goes on from there, so that what is gone already
-- is not looked through again.
CREATE TABLE IF NOT EXISTS retention_progress (
    task      text        NOT NULL,
    partition smallint    NOT NULL DEFAULT -1, -- of events; -1: the task is not by partition
    seq       bigint      NOT NULL DEFAULT 0,
    first_id  uuid,
    second_id uuid,
    done_at   timestamptz NOT NULL,            -- the last round that came to its end
    PRIMARY KEY (task, partition)
);

-- When the last of what is personal was erased; status says that the account is being deleted.
ALTER TABLE users ADD COLUMN IF NOT EXISTS erased_at timestamptz;

DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_settled; -- one that was left half made
CREATE INDEX CONCURRENTLY push_deliveries_settled ON push_deliveries (created_at) WHERE status = 3;
DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_user;
CREATE INDEX CONCURRENTLY push_deliveries_user ON push_deliveries (user_id);
DROP INDEX CONCURRENTLY IF EXISTS sessions_expiry;
CREATE INDEX CONCURRENTLY sessions_expiry ON sessions (expires_at);
CREATE INDEX IF NOT EXISTS activity_log_address ON activity_log (at) WHERE address IS NOT NULL;

-- The application's role may read and append to the activity log, and call these. Each
-- runs with the rights of the log's owner and checks for itself that what it takes away is
-- due, by the server's own clock, so that whoever has the application's rights can shorten
-- nothing.

-- The addresses in up to most rows that are older than 30 days. Returns how many.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION activity_log_expire_addresses(older timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    until timestamptz := LEAST(older, now() - interval '30 days');
    part regclass;
    n integer;
    total integer := 0;
BEGIN
    FOR part IN SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = 'activity_log'::regclass LOOP
        EXIT WHEN total >= most;
        EXECUTE format('UPDATE %s SET address = NULL WHERE ctid = ANY (ARRAY('
            'SELECT x.ctid FROM %s x WHERE x.at < $1 AND x.address IS NOT NULL LIMIT $2))', part, part)
            USING until, most - total;
        GET DIAGNOSTICS n = ROW_COUNT;
        total := total + n;
    END LOOP;
    RETURN total;
END $$;
-- +goose StatementEnd

-- What tells where and on what a user whose account is being deleted did things, in up to
-- most rows. Returns how many; fewer than most: there are no more.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION activity_log_erase(erased uuid, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    part regclass;
    n integer;
    total integer := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM users u WHERE u.id = erased AND u.status = 4) THEN
        RETURN 0;
    END IF;
    FOR part IN SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = 'activity_log'::regclass LOOP
        EXIT WHEN total >= most;
        EXECUTE format('UPDATE %s SET address = NULL, device = NULL, metadata = NULL WHERE ctid = ANY (ARRAY('
            'SELECT x.ctid FROM %s x WHERE x.actor = $1'
            ' AND (x.address IS NOT NULL OR x.device IS NOT NULL OR x.metadata IS NOT NULL) LIMIT $2))', part, part)
            USING erased, most - total;
        GET DIAGNOSTICS n = ROW_COUNT;
        total := total + n;
    END LOOP;
    RETURN total;
END $$;
-- +goose StatementEnd

-- Makes the months up to ahead and drops those that ended more than a year ago. Returns how
-- many were dropped. It gives up soon rather than make others wait, and one does it at a time.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION activity_log_rotate(older timestamptz, ahead timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '1s' AS $$
DECLARE
    until timestamptz := LEAST(older, now() - interval '1 year');
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    last timestamp := LEAST(ahead, now() + interval '3 years') AT TIME ZONE 'UTC';
    lower timestamptz;
    upper timestamptz;
    name text;
    n integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(7094988742164374373) THEN
        RETURN 0;
    END IF;
    WHILE month <= last LOOP
        name := 'activity_log_' || to_char(month, 'YYYYMM');
        lower := month AT TIME ZONE 'UTC';
        upper := (month + interval '1 month') AT TIME ZONE 'UTC';
        IF to_regclass(name) IS NULL THEN
            -- What came before its month had a partition lies in the default one.
            EXECUTE format('CREATE TABLE %I (LIKE activity_log INCLUDING ALL)', name);
            EXECUTE format('WITH early AS (DELETE FROM activity_log_default WHERE at >= $1 AND at < $2 RETURNING *)'
                ' INSERT INTO %I SELECT * FROM early', name) USING lower, upper;
            EXECUTE format('ALTER TABLE activity_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
        END IF;
        month := month + interval '1 month';
    END LOOP;
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'activity_log'::regclass AND c.relname ~ '^activity_log_[0-9]{6}$'
    LOOP
        IF (to_timestamp(right(name, 6), 'YYYYMM') AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' <= until THEN
            EXECUTE format('DROP TABLE %I', name);
            n := n + 1;
        END IF;
    END LOOP;
    DELETE FROM activity_log_default WHERE ctid = ANY (ARRAY(SELECT x.ctid FROM activity_log_default x WHERE x.at < until LIMIT 1000));
    RETURN n;
END $$;
-- +goose StatementEnd

-- Fixed, so that nobody can put tables of theirs in the place of those that are meant.
-- +goose StatementBegin
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace
            AND p.proname IN ('activity_log_expire_addresses', 'activity_log_erase', 'activity_log_rotate')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
        EXECUTE format('ALTER FUNCTION %s SET timezone = %L', f, 'UTC');
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down

DROP FUNCTION IF EXISTS activity_log_rotate(timestamptz, timestamptz);
DROP FUNCTION IF EXISTS activity_log_erase(uuid, integer);
DROP FUNCTION IF EXISTS activity_log_expire_addresses(timestamptz, integer);
DROP INDEX IF EXISTS activity_log_address;
DROP INDEX CONCURRENTLY IF EXISTS sessions_expiry;
DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_user;
DROP INDEX CONCURRENTLY IF EXISTS push_deliveries_settled;
ALTER TABLE users DROP COLUMN IF EXISTS erased_at;
DROP TABLE IF EXISTS retention_progress;
