-- The tables of accounts, the partner domain, the outbox and the inboxes.
-- Statuses and types are small numbers; pkg/partner names them.

-- +goose Up

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    display_name  text        NOT NULL,
    partner_code  text        NOT NULL UNIQUE, -- 10 characters of Crockford base32
    theme         text        NOT NULL DEFAULT 'light',
    timezone      text        NOT NULL DEFAULT 'UTC',
    locale        text        NOT NULL DEFAULT 'en',
    tier          smallint    NOT NULL DEFAULT 1, -- 1 free, 2 premium
    role          smallint    NOT NULL DEFAULT 1, -- 1 user, 2 support, 3 admin
    status        smallint    NOT NULL DEFAULT 1, -- partner.UserStatus
    show_presence boolean     NOT NULL DEFAULT false,
    push_preview  text        NOT NULL DEFAULT 'discreet',
    birth_date    date,
    created_at    timestamptz NOT NULL
);

CREATE TABLE credentials (
    user_id       uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    email         text NOT NULL UNIQUE, -- lower case
    password_hash text NOT NULL         -- argon2id, PHC string
);

CREATE TABLE sessions (
    id           uuid PRIMARY KEY,
    user_id      uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    refresh_hash bytea       NOT NULL UNIQUE, -- SHA-256 of the current refresh token
    device       jsonb,
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz
);
CREATE INDEX sessions_user ON sessions (user_id);

-- A push address. It belongs to the user and session that registered it last.
CREATE TABLE devices (
    id          uuid PRIMARY KEY,
    user_id     uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    session_id  uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    kind        text        NOT NULL, -- fcm
    value       text        NOT NULL,
    platform    text        NOT NULL,
    app_version text,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    UNIQUE (kind, value)
);
CREATE INDEX devices_user ON devices (user_id);
CREATE INDEX devices_session ON devices (session_id);

-- One row for each slot that a user owns.
CREATE TABLE user_slots (
    user_id uuid     NOT NULL REFERENCES users ON DELETE CASCADE,
    slot    smallint NOT NULL CHECK (slot > 0),
    PRIMARY KEY (user_id, slot)
);

-- The head of a user's inbox, and the lock that makes its sequence gapless: whoever
-- appends to the inbox holds this row. Small and HOT-updated.
CREATE TABLE user_streams (
    user_id  uuid PRIMARY KEY,
    last_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE requests (
    id          uuid PRIMARY KEY,
    sender      uuid        NOT NULL,
    target      uuid        NOT NULL,
    message     text        NOT NULL DEFAULT '',
    fresh       boolean     NOT NULL DEFAULT false,
    status      smallint    NOT NULL, -- partner.RequestStatus
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    resolved_at timestamptz,
    CHECK (sender <> target)
);
-- G3: a pair never has two pending requests, in whichever direction.
CREATE UNIQUE INDEX requests_pending ON requests (LEAST(sender, target), GREATEST(sender, target)) WHERE status = 1;
-- With the one above: a user's pending requests, whichever side of the pair they are.
CREATE INDEX requests_pending_high ON requests (GREATEST(sender, target)) WHERE status = 1;
CREATE INDEX requests_sender ON requests (sender, created_at DESC);
CREATE INDEX requests_target ON requests (target, created_at DESC);

CREATE TABLE partnerships (
    id               uuid PRIMARY KEY,
    low              uuid        NOT NULL,
    high             uuid        NOT NULL,
    status           smallint    NOT NULL, -- partner.PartnershipStatus
    started_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    restorable_until timestamptz,
    ended_by         uuid,
    reason           text        NOT NULL DEFAULT '',
    quiet            boolean     NOT NULL DEFAULT false,
    restored_count   integer     NOT NULL DEFAULT 0,
    version          bigint      NOT NULL,
    CHECK (low < high)
);
-- G3: a pair never has two active partnerships; and at most one that could be restored.
CREATE UNIQUE INDEX partnerships_open ON partnerships (low, high) WHERE status < 3;

CREATE TABLE partnership_members (
    partnership_id uuid     NOT NULL REFERENCES partnerships ON DELETE CASCADE,
    user_id        uuid     NOT NULL,
    slot           smallint NOT NULL,
    active         boolean  NOT NULL,
    PRIMARY KEY (user_id, partnership_id), -- a user's history is a range of it
    FOREIGN KEY (user_id, slot) REFERENCES user_slots (user_id, slot)
);
-- G3: a slot holds at most one active partnership, so a user never has more than slots.
CREATE UNIQUE INDEX partnership_members_active ON partnership_members (user_id, slot) WHERE active;

-- The outcome of each command: what makes it take effect exactly once (G1).
CREATE TABLE commands (
    accepted_at timestamptz NOT NULL,
    applied_at  timestamptz NOT NULL,
    seq         bigint,               -- the issuer's inbox sequence of the command's last event
    id          uuid PRIMARY KEY,
    issuer      uuid        NOT NULL,
    type        smallint    NOT NULL, -- partner.CommandType
    status      smallint    NOT NULL, -- 1 applied, 2 rejected
    fingerprint bytea       NOT NULL,
    code        text,
    result      json
);

-- What became true, in order per partition; this is the outbox. Append-only.
-- (partition, seq) comes from the locked processor_partitions row, so a cursor never
-- skips a late commit. Columns here and in inbox and commands go from wide to narrow:
-- they are most of the WAL, and padding would be a good part of that.
CREATE TABLE events (
    seq         bigint      NOT NULL,
    accepted_at timestamptz NOT NULL,
    applied_at  timestamptz NOT NULL,
    low_seq     bigint,               -- inbox sequence when low is a recipient
    high_seq    bigint,
    other_seq   bigint,
    id          uuid        NOT NULL,
    command_id  uuid        NOT NULL,
    low         uuid        NOT NULL,
    high        uuid        NOT NULL,
    other       uuid,                 -- one recipient outside the pair
    partition   smallint    NOT NULL,
    topic       smallint    NOT NULL, -- 1 events, 2 commands (a follow-up), 3 dead letters
    type        smallint    NOT NULL, -- partner.EventType; for a follow-up partner.CommandType
    data        json        NOT NULL,
    traceparent text,
    PRIMARY KEY (partition, seq)
);

-- Each user's own gapless sequence of the events addressed to them (G5).
CREATE TABLE inbox (
    seq       bigint   NOT NULL,
    event_seq bigint   NOT NULL,
    user_id   uuid     NOT NULL,
    origin    uuid,
    partition smallint NOT NULL,
    PRIMARY KEY (user_id, seq)
);

-- What each session has acknowledged over its WebSocket, and over a visible one.
CREATE TABLE acks (
    user_id     uuid        NOT NULL,
    session_id  uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    seq         bigint      NOT NULL,
    visible_seq bigint      NOT NULL DEFAULT 0,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (user_id, session_id)
) WITH (fillfactor = 50);

-- Ownership and progress of each partition of the commands topic. The owner proves
-- itself by the epoch (G7); the version tells whether a COMMIT of unknown outcome landed.
CREATE TABLE processor_partitions (
    partition      smallint PRIMARY KEY,
    epoch          bigint NOT NULL DEFAULT 0,
    version        bigint NOT NULL DEFAULT 0,
    next_offset    bigint NOT NULL DEFAULT 0,
    last_record_id text,                       -- ce_id of the record before next_offset
    event_seq      bigint NOT NULL DEFAULT 0,  -- last sequence given to an event
    relayed_seq    bigint NOT NULL DEFAULT 0,  -- last sequence known to be on its topic
    owner          text,
    claimed_at     timestamptz
) WITH (fillfactor = 50);

-- Commands that wait, in order, because one before them on their pair could not be applied.
CREATE TABLE parked_commands (
    partition smallint    NOT NULL,
    log_offset bigint     NOT NULL,
    low       uuid        NOT NULL,
    high      uuid        NOT NULL,
    id        uuid        NOT NULL,
    reason    text        NOT NULL, -- unknown_type, newer_version, failed, behind
    error     text        NOT NULL DEFAULT '',
    headers   jsonb       NOT NULL,
    value     bytea       NOT NULL,
    parked_at timestamptz NOT NULL,
    PRIMARY KEY (partition, log_offset)
);
CREATE INDEX parked_commands_pair ON parked_commands (low, high, log_offset);

-- Records that could not be decoded. The bytes stay here for 7 days; the dead-letter
-- topic carries only source, offset and error.
CREATE TABLE dead_letters (
    topic      text        NOT NULL,
    partition  smallint    NOT NULL,
    log_offset bigint      NOT NULL,
    error      text        NOT NULL,
    key        bytea,
    headers    jsonb       NOT NULL,
    value      bytea,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, log_offset)
);

-- One push to one device for one event. The table is the schedule of the notifier.
CREATE TABLE push_deliveries (
    id          uuid PRIMARY KEY,          -- from event id and device id: an event is due once
    user_id     uuid        NOT NULL,
    device_id   uuid        NOT NULL,
    event_id    uuid        NOT NULL,
    seq         bigint      NOT NULL,      -- inbox sequence, for suppression by acknowledgement
    type        smallint    NOT NULL,
    status      smallint    NOT NULL,      -- 1 due, 2 sending, 3 settled
    outcome     text,                      -- delivered, suppressed, withdrawn, unregistered, rejected, expired
    attempts    smallint    NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL,      -- while sending: when the lease ends
    expires_at  timestamptz NOT NULL,
    payload     jsonb       NOT NULL,
    error       text,
    created_at  timestamptz NOT NULL,
    settled_at  timestamptz
);
CREATE INDEX push_deliveries_due ON push_deliveries (due_at) WHERE status < 3;

-- One-time admission to the WebSocket for clients that cannot set a header.
CREATE TABLE realtime_tickets (
    hash       bytea PRIMARY KEY, -- SHA-256 of the ticket
    user_id    uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    session_id uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);

-- Names the one history of sequences that this database holds.
CREATE TABLE stream_epoch (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch      text        NOT NULL,
    started_at timestamptz NOT NULL
);
INSERT INTO stream_epoch (epoch, started_at)
VALUES (substr(replace(gen_random_uuid()::text, '-', ''), 1, 12), now());

-- +goose Down

DROP TABLE stream_epoch, realtime_tickets, push_deliveries, dead_letters, parked_commands,
    processor_partitions, acks, inbox, events, commands, partnership_members, partnerships,
    requests, user_streams, user_slots, devices, sessions, credentials, users;
