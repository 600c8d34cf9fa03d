-- What operators decide about parked commands and dead letters. It only adds, so that the
-- binary before works on this schema too.

-- +goose Up

-- A retry or drop that somebody asked for. The owner of the pair's partition carries it
-- out in its loop, as it does timers, in transactions behind its fence: whoever asks
-- writes a row here and nothing else.
CREATE TABLE parked_actions (
    id           uuid PRIMARY KEY,
    partition    smallint    NOT NULL,               -- where the pair's commands lie
    low          uuid        NOT NULL,
    high         uuid        NOT NULL,
    action       text        NOT NULL CHECK (action IN ('retry', 'drop')),
    command_id   uuid,                               -- a drop of this command alone; NULL: the pair
    last_offset  bigint      NOT NULL,               -- of what waited when it was asked for: a drop goes no further
    dry_run      boolean     NOT NULL DEFAULT false, -- say what would happen, in report, and change nothing
    requested_by text        NOT NULL,               -- user:…, operator:…, or processor
    requested_at timestamptz NOT NULL,
    settled      integer     NOT NULL DEFAULT 0,     -- commands that are parked no more by its doing
    executed_at  timestamptz,                        -- NULL: it waits for the owner
    outcome      text,                               -- done, stopped, nothing_parked
    error        text,                               -- why it stopped
    report       jsonb
);
CREATE INDEX parked_actions_due ON parked_actions (partition, requested_at, id) WHERE executed_at IS NULL;
CREATE INDEX parked_actions_pair ON parked_actions (low, high, requested_at DESC);

-- A deleted account closes every pair of its user, those too on which something is parked
-- and nothing else is.
CREATE INDEX parked_commands_high ON parked_commands (high, low);

-- Who had a dead letter's bytes written to their topic again.
ALTER TABLE dead_letters ADD COLUMN replayed_at timestamptz, ADD COLUMN replayed_by text;

-- +goose Down

ALTER TABLE dead_letters DROP COLUMN replayed_at, DROP COLUMN replayed_by;
DROP INDEX parked_commands_high;
DROP TABLE parked_actions;
