package partner_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestReadInbox(t *testing.T) {
	t.Parallel()
	nothing := summary{partner.EventCommandApplied, []uuid.UUID{}, ann(), partner.EventData{Command: "notifications.read"}}
	told := func(seq int64) summary {
		return summary{partner.EventInboxRead, []uuid.UUID{ann()}, ann(), partner.EventData{ReadSeq: &seq}}
	}
	tests := map[string]struct {
		last, read, seq int64
		want            int64
		event           summary
	}{
		"up":                   {last: 9, read: 2, seq: 5, want: 5, event: told(5)},
		"to the end":           {last: 9, read: 2, seq: 9, want: 9, event: told(9)},
		"beyond the end":       {last: 9, read: 2, seq: 1 << 60, want: 9, event: told(9)},
		"the same again":       {last: 9, read: 5, seq: 5, want: 5, event: nothing},
		"down":                 {last: 9, read: 5, seq: 3, want: 5, event: nothing},
		"beyond the end again": {last: 9, read: 9, seq: 12, want: 9, event: nothing},
		"of an empty inbox":    {last: 0, read: 0, seq: 4, want: 0, event: nothing},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := aloneState(func(u *partner.User) { u.LastSeq, u.ReadSeq = tt.last, tt.read })
			cmd := command(partner.ReadInbox, ann(), alone)
			cmd.ReadSeq = tt.seq
			d := partner.Decide(partner.DefaultLimits(), st, cmd)
			checkEvents(t, d, tt.event)
			if diff := cmp.Diff(partner.Outcome{Result: partner.Result{ReadSeq: &tt.want}}, d.Outcome); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			var marks []partner.ReadMark
			if tt.want != tt.read {
				marks = []partner.ReadMark{{UserID: ann(), Seq: tt.want}}
			}
			if diff := cmp.Diff(marks, d.Reads); diff != "" {
				t.Errorf("marks (-want +got):\n%s", diff)
			}
			if got := d.Next.Users[ann()].ReadSeq; got != tt.want {
				t.Errorf("the next command finds the mark at %d, want %d", got, tt.want)
			}
			if len(d.Activity) != 0 {
				t.Errorf("what somebody reads is logged: %+v", d.Activity)
			}
		})
	}
}
