package processor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func read(user uuid.UUID, seq int64) partner.Command {
	cmd := command(partner.ReadInbox, user, user)
	cmd.ReadSeq = seq
	return cmd
}

// TestReadMarkOnlyRises moves a mark within one batch and over several, and between them
// the inbox goes on.
func TestReadMarkOnlyRises(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start()
	a, b := r.couple(1)
	mark := func() int64 { return one[int64](r, `SELECT read_seq FROM user_streams WHERE user_id = $1`, a) }
	head := func(u uuid.UUID) int64 {
		return one[int64](r, `SELECT last_seq FROM user_streams WHERE user_id = $1`, u)
	}
	told := func() []int64 {
		t.Helper()
		var seqs []int64
		for n := range 10 {
			got := one[int64](r, `SELECT COALESCE((SELECT (e.data->>'seq')::bigint FROM inbox i JOIN events e ON e.partition = i.partition AND e.seq = i.event_seq
				WHERE e.type = 21 AND i.user_id = $1 ORDER BY i.seq OFFSET $2 LIMIT 1), 0)`, a, n)
			if got == 0 {
				return seqs
			}
			seqs = append(seqs, got)
		}
		return seqs
	}
	was, other := head(a), head(b)
	cmds := []partner.Command{read(a, 2), read(a, 1), read(a, 2), read(a, was)}
	r.post(cmds...)
	r.settled()
	r.applied(cmds...)
	if got := mark(); got != was {
		t.Errorf("the mark is at %d, want %d", got, was)
	}
	if diff := cmp.Diff([]int64{2, was}, told()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if got := head(a); got != was+2 {
		t.Errorf("the inbox ends at %d, want %d: one event for each time that it moved", got, was+2)
	}
	beyond := read(a, 1<<50)
	r.post(rename(b, "Bea"), beyond)
	r.settled()
	if got, end := mark(), head(a); got < was+2 || got >= end {
		t.Errorf("a mark beyond the end is at %d of %d", got, end)
	}
	if got := one[string](r, `SELECT result->>'seq' FROM commands WHERE id = $1`, beyond.ID); got != one[string](r, `SELECT read_seq::text FROM user_streams WHERE user_id = $1`, a) {
		t.Errorf("the result says %s, the mark is at %d", got, mark())
	}
	if got := one[int64](r, `SELECT read_seq FROM user_streams WHERE user_id = $1`, b); got != 0 || head(b) != other+1 {
		t.Errorf("the other's mark is at %d, their inbox at %d", got, head(b))
	}
	r.gapless()
	r.published()
}
