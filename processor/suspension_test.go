package processor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// Erasure blanks what the user wrote in detail, and begins the time that the rest of reports
// by and about them is kept.
func TestErasureClosesReports(t *testing.T) {
	t.Parallel()
	r, _ := newMemoryRig(t)
	r.start()
	leaver, other, third := r.user(1), r.user(1), r.user(1)
	file := func(reporter, target uuid.UUID, at string) uuid.UUID {
		id := uuid.New()
		r.exec(`INSERT INTO reports (id, reporter, target, reason, detail, created_at, closed_at) VALUES ($1, $2, $3, 'r', 'd', now(), $4::timestamptz)`,
			id, reporter, target, at)
		return id
	}
	before := "2026-01-01T00:00:00Z"
	by, about, others, already := file(leaver, other, before), file(other, leaver, before), file(other, third, before), file(other, leaver, before)
	r.exec(`UPDATE reports SET closed_at = NULL WHERE id <> $1`, already)
	r.post(command(partner.DeleteAccount, leaver, leaver))
	r.erased(leaver)
	got := keyed[string](r, `SELECT id::text, detail || reason || CASE WHEN closed_at IS NULL THEN ' open' WHEN closed_at < now() - interval '1 hour' THEN ' before' ELSE ' now' END FROM reports`)
	want := map[string]string{by.String(): "r now", about.String(): "dr now", others.String(): "dr open", already.String(): "dr before"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

// What a user had queued when they were suspended is rejected, save what takes them away
// from somebody; and the suspension holds up nobody else.
func TestQueueOfASuspendedUser(t *testing.T) {
	t.Parallel()
	r, m := newMemoryRig(t)
	r.start()
	bad, ex := r.couple(3)
	left, asker, asked := r.user(2), r.user(2), r.user(2)
	r.marry(bad, left)
	waiting := send(asker, bad)
	r.post(waiting)
	r.settled()

	release := m.hold()
	toAsked, nickname, leave, block := send(bad, asked), command(partner.SetNickname, bad, ex), remove(bad, left), command(partner.Block, bad, asked)
	nickname.Nickname = "mine"
	answer, cancel := accept(bad, waiting), command(partner.Cancel, asker, bad)
	cancel.RequestID = partner.RequestIDOf(waiting.ID)
	approach, theirs, away := send(left, bad), rename(ex, "Ex"), remove(ex, bad)
	r.post(toAsked, nickname, leave, block, answer, rename(bad, "Other"), approach, theirs, away, cancel)
	r.exec(`UPDATE users SET status = $2 WHERE id = $1`, bad, int16(partner.UserSuspended))
	release()
	r.settled()

	got := map[string]string{}
	for name, id := range map[string]uuid.UUID{
		"send": toAsked.ID, "nickname": nickname.ID, "leave": leave.ID, "block": block.ID, "accept": answer.ID,
		"send to them": approach.ID, "the other's own": theirs.ID, "the other leaves": away.ID, "the other takes back": cancel.ID,
	} {
		got[name] = r.outcome(id)
	}
	want := map[string]string{
		"send": "forbidden", "nickname": "forbidden", "leave": "applied", "block": "applied", "accept": "forbidden",
		"send to them": "target_unavailable", "the other's own": "applied", "the other leaves": "applied", "the other takes back": "applied",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if n := one[int64](r, `SELECT count(*) FROM partnerships WHERE status = 1 AND (low = $1 OR high = $1)`, bad); n != 0 {
		t.Errorf("%d partnerships are left though both sides ended", n)
	}
	r.exec(`UPDATE users SET status = $2 WHERE id = $1`, bad, int16(partner.UserActive))
	again := rename(bad, "Back")
	r.post(again)
	r.settled()
	r.applied(again)
	r.gapless()
}
