package processor

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestCommandsTakeEffectOnceAndInOrder(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	s := send(a, b)
	acc := accept(b, s)
	rm := remove(a, b)
	s2 := send(b, a)
	acc2 := accept(a, s2)
	recs := []partner.Command{s, acc, s, rm, acc, s2, rm, acc2, s2}
	_, stop := r.start()
	r.post(recs...)
	r.settled()
	for _, c := range []partner.Command{s, acc, rm, s2, acc2} {
		if got := r.outcome(c.ID); got != "applied" {
			t.Errorf("%s is %s, want applied", c.Type, got)
		}
	}
	if got := one[int32](r, `SELECT restored_count FROM partnerships WHERE status = 1`); got != 1 {
		t.Errorf("restored count = %d, want 1", got)
	}
	if got := value(t, r.reg, "bondmate_processor_commands_total"); got != float64(len(recs)) {
		t.Errorf("counted %v commands, want %d", got, len(recs))
	}
	r.gapless()
	r.published()
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestSupersedesThroughTheTopic(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	r.start()
	others := r.users(5, 1)
	for _, o := range others {
		r.post(send(o, a))
	}
	s := send(a, b)
	r.post(s)
	r.settled()
	r.post(accept(b, s))
	r.eventually("superseded", func() bool {
		return one[int64](r, `SELECT count(*) FROM requests WHERE status = 6`) == 5
	})
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM requests WHERE status = 1`); got != 0 {
		t.Errorf("%d requests pending, want 0", got)
	}
	r.gapless()
	r.published()
}

func TestMismatchIsRejectedOnceAndChangesNothing(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	a, b := r.user(1), r.user(1)
	r.start()
	s := send(a, b)
	other := s
	other.Message, other.Fingerprint = "another body", [16]byte(uuid.New())
	r.post(s, other, other)
	r.settled()
	if got := r.outcome(s.ID); got != "applied" {
		t.Errorf("first is %s, want applied", got)
	}
	if got := one[int64](r, `SELECT count(*) FROM events WHERE type = $1`, int16(partner.EventCommandRejected)); got != 1 {
		t.Errorf("%d rejections, want 1", got)
	}
	r.post(other)
	r.settled()
	if got := one[int64](r, `SELECT count(*) FROM events WHERE type = $1`, int16(partner.EventCommandRejected)); got != 1 {
		t.Errorf("%d rejections after a repeat, want 1", got)
	}
	r.gapless()
}

func TestStaleCommandsAreRejected(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	a, b, c := r.user(2), r.user(1), r.user(1)
	old := time.Now().Add(-time.Hour).Truncate(time.Microsecond).UTC()
	inTime, late := send(a, b), send(a, c)
	inTime.AcceptedAt, late.AcceptedAt = old, old
	m.append(old.Add(3*time.Second), r.record(inTime))
	m.append(old.Add(4*time.Second), r.record(late))
	r.start(func(c *Config) { c.Deadline, c.Skew = 2500*time.Millisecond, time.Second })
	r.settled()
	if got := r.outcome(inTime.ID); got != "applied" {
		t.Errorf("command appended in time is %s, want applied", got)
	}
	if got := r.outcome(late.ID); got != "stale" {
		t.Errorf("command appended late is %s, want stale", got)
	}
	r.gapless()
}
