package processor

import (
	"bytes"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The rows are there and locked since the load; see writeStreamsSQL for the form.
const writeReadsSQL = `
INSERT INTO user_streams (user_id, read_seq)
SELECT user_id, read_seq FROM unnest($1::uuid[], $2::bigint[]) AS n (user_id, read_seq)
ON CONFLICT (user_id) DO UPDATE SET read_seq = excluded.read_seq`

func (c *changes) queueReads(q *pgx.Batch) {
	users := slices.SortedFunc(maps.Keys(c.reads), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	if len(users) == 0 {
		return
	}
	marks := make([]int64, len(users))
	for i, u := range users {
		marks[i] = c.reads[u]
	}
	q.Queue("write_reads", users, marks)
}
