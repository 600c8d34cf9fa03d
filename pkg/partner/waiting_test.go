package partner_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// What waited on a parked pair and is not decided on is told to its issuer; a follow-up
// has none, and the next round of what it is part of comes all the same.
func TestRejectWaiting(t *testing.T) {
	t.Parallel()
	user, other := uuid.UUID{1}, uuid.UUID{2}
	for name, tc := range map[string]struct {
		cmd  partner.Command
		told int
		next partner.CommandType // zero: none
	}{
		"a user's command":                   {partner.Command{Type: partner.Send}, 1, 0},
		"a follow-up":                        {partner.Command{Type: partner.Supersede, Cause: uuid.UUID{9}}, 0, 0},
		"the last of a round of superseding": {partner.Command{Type: partner.Supersede, Cause: uuid.UUID{9}, More: true}, 0, partner.Sweep},
		"the last pair of a deletion":        {partner.Command{Type: partner.ClosePair, Cause: uuid.UUID{9}, More: true}, 0, partner.EraseAccount},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.cmd.ID, tc.cmd.Issuer, tc.cmd.Pair, tc.cmd.AcceptedAt = uuid.UUID{7}, user, partner.PairOf(user, other), start()
			d := partner.RejectWaiting(tc.cmd, "dropped")
			if d.Outcome.Code != "dropped" || len(d.Events) != 1 || d.Events[0].Type != partner.EventCommandRejected {
				t.Fatalf("decision %+v", d)
			}
			if got := len(d.Events[0].Recipients); got != tc.told {
				t.Errorf("%d are told, want %d", got, tc.told)
			}
			switch {
			case tc.next == 0 && len(d.FollowUps) != 0:
				t.Errorf("follow-ups %v, want none", d.FollowUps)
			case tc.next != 0 && (len(d.FollowUps) != 1 || d.FollowUps[0].Type != tc.next || d.FollowUps[0].Pair != partner.PairOf(user, user)):
				t.Errorf("follow-ups %+v, want a %s on the user's own pair", d.FollowUps, tc.next)
			}
		})
	}
}
