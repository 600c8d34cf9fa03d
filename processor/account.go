package processor

import (
	"bytes"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// aboutAccount says which commands are decided on all pairs of a user at once. Each goes
// through a transaction of its own: within a batch, what commands before it left on other
// pairs is not in the tables that this is read from.
func aboutAccount(it *item) bool {
	return it.err == nil && (it.cmd.Type == partner.DeleteAccount || it.cmd.Type == partner.EraseAccount)
}

// run returns how many of the items go into the next transaction.
func run(items []*item) int {
	if at := slices.IndexFunc(items, aboutAccount); at >= 0 {
		return max(at, 1)
	}
	return len(items)
}

// The others of a user's pairs that are not closed. A pending breakup is of a partnership
// that is not archived. A pair on which nothing but a command is parked counts: the command
// holds what the user wrote.
const loadCounterpartsSQL = `
SELECT k.id, c.other
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (
    SELECT x.target AS other FROM requests x WHERE LEAST(x.sender, x.target) = k.id AND x.status = 1 AND x.sender = k.id
    UNION SELECT x.sender FROM requests x WHERE LEAST(x.sender, x.target) = k.id AND x.status = 1 AND x.target = k.id
    UNION SELECT x.target FROM requests x WHERE GREATEST(x.sender, x.target) = k.id AND x.status = 1 AND x.sender = k.id
    UNION SELECT x.sender FROM requests x WHERE GREATEST(x.sender, x.target) = k.id AND x.status = 1 AND x.target = k.id
    UNION SELECT CASE WHEN p.low = k.id THEN p.high ELSE p.low END
          FROM partnership_members m
          CROSS JOIN LATERAL (SELECT y.low, y.high, y.status FROM partnerships y WHERE y.id = m.partnership_id LIMIT 1) AS p
          WHERE m.user_id = k.id AND p.status < 3
    UNION SELECT x.other_id FROM pair_sides x WHERE x.user_id = k.id
    UNION SELECT x.user_id FROM pair_sides x WHERE x.other_id = k.id
    UNION SELECT x.target FROM nicknames x WHERE x.owner = k.id
    UNION SELECT x.owner FROM nicknames x WHERE x.target = k.id
    UNION SELECT x.high FROM parked_commands x WHERE x.low = k.id AND x.high <> k.id
    UNION SELECT x.low FROM parked_commands x WHERE x.high = k.id AND x.low <> k.id
    ORDER BY 1 LIMIT $2) AS c
ORDER BY k.id, c.other`

func (w *world) scanCounterparts(rows pgx.Rows) error {
	var id, other uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{raw(&id), raw(&other)}, func() error {
		u := w.users[id]
		u.Counterparts = append(u.Counterparts, other)
		w.users[id] = u
		return nil
	})
	return err
}

const setStatusSQL = `UPDATE users SET status = $2 WHERE id = $1`

// With the sessions go their devices, tickets and acknowledgements.
const endSessionsSQL = `DELETE FROM sessions WHERE user_id = $1`

func (c *changes) queueAccounts(q *pgx.Batch, b *batch) {
	ids := slices.SortedFunc(maps.Keys(c.accounts), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		change := c.accounts[id]
		q.Queue(setStatusSQL, id, int16(change.Status))
		if change.Status != partner.UserDeleting {
			continue
		}
		q.Queue(endSessionsSQL, id)
		if !change.Erase {
			q.Queue(cutFromAllSQL, id, b.now)
			q.Queue(withdrawFromAllSQL, id, b.now)
			continue
		}
		for _, sql := range eraseSQL {
			q.Queue(sql, id, b.eraseRows+eraseSlack)
		}
		if !change.More {
			q.Queue(erasedSQL, id, b.now)
		}
	}
}
