package accounts_test

import (
	"testing"

	"github.com/bondmate/backend/ingest/accounts"
)

// What a session's look-up says of its user's state is of after the call, also while the
// answer about the session itself would be reused, and changes with all that has no event.
func TestStandingIsOfNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.register(t, "ada@example.com")
	standing := func() accounts.Standing {
		t.Helper()
		s, err := w.StandingNow(t.Context(), ada.SessionID)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	exec := func(sql string) {
		t.Helper()
		if _, err := w.pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	first := standing()
	if !first.Active || first.UserID != ada.User.ID || first.Epoch == "" || first.Seq != 0 || first.Row == 0 {
		t.Fatalf("got %+v", first)
	}
	if again := standing(); again != first {
		t.Errorf("without a change: %+v, then %+v", first, again)
	}
	exec(`SELECT FROM users FOR NO KEY UPDATE`)
	exec(`UPDATE credentials SET verified_at = now()`)
	if again := standing(); again != first {
		t.Errorf("after a lock and a change of other rows: %+v, then %+v", first, again)
	}
	for _, change := range []struct {
		name, sql string
		want      func(before, after accounts.Standing) bool
	}{
		{"an event", `UPDATE user_streams SET last_seq = last_seq + 1`, func(b, a accounts.Standing) bool { return a.Seq == b.Seq+1 && a.Row == b.Row }},
		{"a setting", `UPDATE users SET push_preview = 'full'`, func(b, a accounts.Standing) bool { return a.Seq == b.Seq && a.Row != b.Row }},
		{"an operator's", `UPDATE users SET tier = 2`, func(b, a accounts.Standing) bool { return a.Seq == b.Seq && a.Row != b.Row }},
		{"a restore", `UPDATE stream_epoch SET epoch = 'another'`, func(b, a accounts.Standing) bool { return a.Epoch == "another" && a.Row == b.Row }},
	} {
		before := standing()
		exec(change.sql)
		if after := standing(); !change.want(before, after) {
			t.Errorf("%s: %+v, then %+v", change.name, before, after)
		}
	}
	if err := w.Logout(t.Context(), ada.User.ID, ada.SessionID); err != nil {
		t.Fatal(err)
	}
	if ended := standing(); ended != (accounts.Standing{}) {
		t.Errorf("of an ended session: %+v", ended)
	}
}
