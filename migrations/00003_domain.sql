-- The rest of the partner domain: what each side of a pair has decided about the other,
-- breakups, nicknames, timers, cuts and the activity log. It only adds, so that the
-- binary before works on this schema too.

-- +goose Up

-- What one user has decided about another, or what counts against them there. Private to
-- user_id: nothing of it is ever told to other_id. The row outlives every partnership.
CREATE TABLE pair_sides (
    user_id         uuid        NOT NULL,
    other_id        uuid        NOT NULL,
    blocked_at      timestamptz,                      -- user_id blocks other_id
    door_closed_at  timestamptz,                      -- sends from other_id answer target_unavailable
    forfeited       uuid,                             -- the ended partnership that user_id will not have restored
    declines        smallint    NOT NULL DEFAULT 0,   -- how often user_id declined other_id
    last_declined_at timestamptz,
    sends           timestamptz[] NOT NULL DEFAULT '{}', -- of user_id to other_id, the recent ones
    PRIMARY KEY (user_id, other_id),
    CHECK (user_id <> other_id)
) WITH (fillfactor = 80);
CREATE INDEX pair_sides_blocked ON pair_sides (user_id, blocked_at DESC, other_id) WHERE blocked_at IS NOT NULL;
CREATE INDEX pair_sides_other ON pair_sides (other_id);

-- The gentle way to end a partnership: asked, answered, taken back, or ended by time.
CREATE TABLE breakups (
    id             uuid PRIMARY KEY,
    partnership_id uuid        NOT NULL,
    low            uuid        NOT NULL,
    high           uuid        NOT NULL,
    asker          uuid        NOT NULL,
    reason         text        NOT NULL DEFAULT '', -- for the asker's eyes alone
    status         smallint    NOT NULL,            -- partner.BreakupStatus
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,            -- unanswered, the partnership ends then
    resolved_at    timestamptz,
    CHECK (low < high)
);
-- A pair never has two open breakups.
CREATE UNIQUE INDEX breakups_open ON breakups (low, high) WHERE status = 1;
CREATE INDEX breakups_pair ON breakups (low, high, created_at DESC);

-- What a user calls another one. The other never learns of it.
CREATE TABLE nicknames (
    owner      uuid        NOT NULL,
    target     uuid        NOT NULL,
    nickname   text        NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (owner, target),
    CHECK (owner <> target)
);
CREATE INDEX nicknames_target ON nicknames (target);

-- What a partition's owner has to let happen on a pair, and when it is due. One of each
-- kind a pair: setting it again moves it.
CREATE TABLE timers (
    low       uuid        NOT NULL,
    high      uuid        NOT NULL,
    kind      smallint    NOT NULL, -- partner.TimerKind
    partition smallint    NOT NULL, -- of the commands topic, where the pair's commands lie
    due_at    timestamptz NOT NULL,
    ref       uuid        NOT NULL, -- the request, partnership or breakup that it is about
    retry_at  timestamptz,          -- set when applying it failed for good: not tried before
    error     text,
    PRIMARY KEY (low, high, kind)
);
CREATE INDEX timers_due ON timers (partition, due_at);
-- What was pending before there were timers. The hash of the key is the processor's to
-- know: it gives these their partitions (-1: none yet).
INSERT INTO timers (low, high, kind, partition, due_at, ref)
SELECT LEAST(sender, target), GREATEST(sender, target), 1, -1, expires_at, id FROM requests WHERE status = 1
UNION ALL
SELECT low, high, 2, -1, restorable_until, id FROM partnerships WHERE status = 2;

-- What an ending took back (G9): events of origin in recipient's inbox, after what any of
-- the recipient's sessions had acknowledged by then, up to the inbox's head at that time.
CREATE TABLE cuts (
    recipient uuid        NOT NULL,
    origin    uuid        NOT NULL,
    after_seq bigint      NOT NULL,
    last_seq  bigint      NOT NULL,
    made_at   timestamptz NOT NULL,
    PRIMARY KEY (recipient, origin, last_seq),
    CHECK (after_seq < last_seq)
);

-- The inbox as its user may read it. This is the one place that says what is withdrawn:
-- whoever shows or pushes an event reads it from here. Row by row it is one look-up in
-- the primary key of cuts.
CREATE VIEW inbox_entries AS
SELECT i.user_id, i.seq, i.partition, i.event_seq, i.origin,
       i.origin IS NOT NULL AND EXISTS (
           SELECT FROM cuts c
           WHERE c.recipient = i.user_id AND c.origin = i.origin AND i.seq > c.after_seq AND i.seq <= c.last_seq
       ) AS withdrawn
FROM inbox i;

-- An ending withdraws what is due for the one it cuts off.
CREATE INDEX push_deliveries_open ON push_deliveries (user_id, seq) WHERE status < 3;

-- The end of a session takes its acknowledgements with it: not by a look through all of them.
CREATE INDEX acks_session ON acks (session_id);

-- The entries of a custom theme.
ALTER TABLE users ADD COLUMN theme_entries jsonb;

-- Who did what to whom, and what was refused. Append-only; a month is a partition, so that
-- a year's end drops one. The default takes what no partition was made for.
CREATE TABLE activity_log (
    at         timestamptz NOT NULL,
    actor      uuid        NOT NULL,
    target     uuid,
    action     text        NOT NULL,
    severity   smallint    NOT NULL, -- partner.Severity
    code       text,                 -- of a refusal
    subject    uuid,                 -- the request, partnership or breakup
    command_id uuid,
    address    text,                 -- 30 days
    device     text,
    metadata   jsonb
) PARTITION BY RANGE (at);
CREATE INDEX activity_log_actor ON activity_log (actor, at DESC);
CREATE TABLE activity_log_default PARTITION OF activity_log DEFAULT;
-- +goose StatementBegin
DO $$
DECLARE month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
BEGIN
    FOR i IN 0..24 LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF activity_log FOR VALUES FROM (%L) TO (%L)',
            'activity_log_' || to_char(month + i * interval '1 month', 'YYYYMM'),
            (month + i * interval '1 month') AT TIME ZONE 'UTC',
            (month + (i + 1) * interval '1 month') AT TIME ZONE 'UTC');
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down

DROP TABLE activity_log;
ALTER TABLE users DROP COLUMN theme_entries;
DROP INDEX acks_session;
DROP INDEX push_deliveries_open;
DROP VIEW inbox_entries;
DROP TABLE cuts, timers, nicknames, breakups, pair_sides;
