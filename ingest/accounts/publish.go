package accounts

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// A new ref for each change: the processor that is publishing just now has seen the row
// before, and leaves this one where it is.
const announceSQL = `
INSERT INTO timers (low, high, kind, partition, due_at, ref)
VALUES ($1, $1, $2, $3, $4, gen_random_uuid())
ON CONFLICT (low, high, kind) DO UPDATE SET
    ref = excluded.ref, due_at = LEAST(timers.due_at, excluded.due_at), retry_at = NULL, error = NULL`

// Announce adds to a batch what brings a user's new state onto the users topic. Whoever
// writes a user's row by themselves, not by a command, queues it in the same transaction,
// after that row: the owner of the user's partition, out of as many as the commands topic
// has, reads the state and publishes it within a second or two of the commit.
func Announce(to *pgx.Batch, user uuid.UUID, partitions int, now time.Time) {
	pair := partner.PairOf(user, user)
	to.Queue(announceSQL, user, partner.TimerUser, contract.PartitionOf([]byte(pair.String()), partitions), now)
}
