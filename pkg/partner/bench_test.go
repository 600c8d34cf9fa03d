package partner_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

func BenchmarkDecide(b *testing.B) {
	many := func(u uuid.UUID) func(*partner.State) {
		v := user(u)
		for n := range partner.PendingLimit - 1 {
			v.Pending = append(v.Pending, partner.PendingRef{RequestID: numbered(n), Pair: partner.PairOf(u, numbered(1000+n))})
		}
		return with(v)
	}
	for name, bm := range map[string]struct {
		state partner.State
		cmd   partner.Command
	}{
		"send":         {state(), command(partner.Send, ann())},
		"accept":       {state(request(id(20), ann())), command(partner.Accept, bob(), names(id(20)))},
		"remove":       {state(active(id(30))), command(partner.Remove, ann())},
		"reject":       {state(), command(partner.Remove, ann())},
		"accept among": {state(many(ann()), many(bob()), request(id(20), ann())), command(partner.Accept, bob(), names(id(20)))},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := partner.Decide(partner.DefaultLimits(), bm.state, bm.cmd); len(d.Events) == 0 {
					b.Fatal("no event")
				}
			}
		})
	}
}
