package partner_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/bondmate/backend/pkg/partner"
)

// tell keeps the events of a decision as their rows do: with the command's time, not the
// decision's.
func (w *world) tell(c partner.Command, d partner.Decision) {
	for _, e := range d.Events {
		e.At = c.AcceptedAt
		w.told = append(w.told, e)
		w.toldAt = append(w.toldAt, w.clock)
	}
}

// stored is what the tables hold of a pair.
func (w *world) stored(pair partner.Pair) partner.Stored {
	ps := w.loadPair(pair, uuid.Nil)
	st := partner.Stored{Low: ps.Low, High: ps.High, Deleting: w.past.deleted[pair.Low] || w.past.deleted[pair.High]}
	for _, r := range w.requests {
		if partner.PairOf(r.Sender, r.Target) == pair {
			st.Requests = append(st.Requests, r)
		}
	}
	for _, p := range w.partnerships {
		if p.Pair == pair {
			st.Partnerships = append(st.Partnerships, p)
		}
	}
	for _, b := range w.breakups {
		if b.Pair == pair {
			st.Breakups = append(st.Breakups, b)
		}
	}
	return st
}

// retell compares each pair's tables with its events, but for the first ones of all: those
// have been removed.
func (w *world) retell(removed int) ([]partner.Difference, []string) {
	pairs := map[partner.Pair]bool{}
	for _, e := range w.told {
		pairs[e.Pair] = !e.Pair.Solo()
	}
	horizon := partner.Horizon{Complete: removed == 0, Skew: 4 * time.Second}
	if removed > 0 {
		horizon.Since = w.toldAt[removed-1].Add(2 * time.Second) // the skew of the clocks
		for _, e := range w.told[:removed] {                     // a timer of long ago may have gone off late
			if horizon.Since.Before(e.At) {
				horizon.Since = e.At
			}
		}
	}
	var differences []partner.Difference
	var dropped []string
	for pair, two := range pairs {
		if !two {
			continue
		}
		h := partner.Replay(partner.NewHistory(pair, removed == 0), func(yield func(partner.Event) bool) {
			for _, e := range w.told[removed:] {
				if e.Pair == pair && !yield(e) {
					return
				}
			}
		})
		ds, gone := partner.Compare(h, w.stored(pair), horizon)
		differences, dropped = append(differences, ds...), append(dropped, gone...)
	}
	return differences, dropped
}

// checkTold: what the events tell of each pair is what the decisions left.
func (w *world) checkTold() error {
	differences, dropped := w.retell(0)
	if len(differences) > 0 {
		return fmt.Errorf("the events tell otherwise: %v", differences)
	}
	if len(dropped) > 0 {
		return fmt.Errorf("all events are there and %v cannot be compared", dropped)
	}
	return nil
}

// TestEventsTellTheStateOfPairs is the last check of TestHistories with any number of the
// oldest events removed: then nothing is claimed that is not so.
func TestEventsTellTheStateOfPairs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, err := run(histories().Draw(t, "history"), partner.Decide)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			removed := rapid.IntRange(0, len(w.told)).Draw(t, "removed")
			if differences, _ := w.retell(removed); len(differences) > 0 {
				t.Fatalf("with %d of %d events removed: %v", removed, len(w.told), differences)
			}
		}
	})
}

// TestReplayFindsWhatIsWrong breaks each stored field of a pair, and takes out each of its
// events: nothing of it may go unnoticed.
func TestReplayFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	found := map[string]int{}
	want := []string{
		"without request.accepted", "without request.declined", "without request.cancelled", "without request.expired", "without request.superseded",
		"without partnership.started", "without partnership.ended", "without partnership.archived", "without slot.vacated",
		"without breakup.requested", "without breakup.declined", "without breakup.withdrawn", "without block.changed", "without command.applied",
		"request status", "partnership restoredCount", "breakup asker", "side blockedAt",
	}
	missing := func(name string) bool { return found[name] == 0 }
	for seed := 0; seed < 1000 && slices.ContainsFunc(want, missing); seed++ {
		w, err := run(histories().Example(seed), partner.Decide)
		if err != nil {
			t.Fatal(err)
		}
		pairs := map[partner.Pair]bool{}
		for _, e := range w.told {
			pairs[e.Pair] = !e.Pair.Solo()
		}
		for pair, two := range pairs {
			if two {
				findMutations(t, w, pair, found)
			}
		}
	}
	for _, name := range want {
		if missing(name) {
			t.Errorf("never found: %s", name)
		}
	}
}

func findMutations(t *testing.T, w *world, pair partner.Pair, found map[string]int) {
	t.Helper()
	stored := w.stored(pair)
	events := slices.DeleteFunc(slices.Clone(w.told), func(e partner.Event) bool { return e.Pair != pair })
	differences := func(events []partner.Event, stored partner.Stored) int {
		h := partner.Replay(partner.NewHistory(pair, true), slices.Values(events))
		found, _ := partner.Compare(h, stored, partner.Horizon{Complete: true})
		return len(found)
	}
	for i, e := range events {
		if differences(slices.Delete(slices.Clone(events), i, i+1), stored) > 0 {
			found["without "+e.Type.String()]++
		}
	}
	for name, wrong := range mutations(stored) {
		if differences(events, wrong) == 0 {
			t.Fatalf("the %s of %s is wrong and nothing is found", name, pair)
		}
		found[name]++
	}
}

// mutations returns copies of what is stored with one field changed each.
func mutations(st partner.Stored) map[string]partner.Stored {
	out := map[string]partner.Stored{}
	add := func(name string, change func(*partner.Stored)) {
		wrong := st
		wrong.Requests, wrong.Partnerships, wrong.Breakups = slices.Clone(st.Requests), slices.Clone(st.Partnerships), slices.Clone(st.Breakups)
		if change(&wrong); !reflect.DeepEqual(wrong, st) {
			out[name] = wrong
		}
	}
	later := func(at *time.Time) { *at = at.Add(time.Microsecond) }
	if n := len(st.Requests) - 1; n >= 0 {
		add("request status", func(s *partner.Stored) { s.Requests[n].Status = s.Requests[n].Status%6 + 1 })
		add("request sender", func(s *partner.Stored) { s.Requests[n].Sender = s.Requests[n].Target })
		add("request target", func(s *partner.Stored) { s.Requests[n].Target = s.Requests[n].Sender })
		add("request createdAt", func(s *partner.Stored) { later(&s.Requests[n].CreatedAt) })
		add("request expiresAt", func(s *partner.Stored) { later(&s.Requests[n].ExpiresAt) })
		add("request resolvedAt", func(s *partner.Stored) { later(&s.Requests[n].ResolvedAt) })
		add("request row", func(s *partner.Stored) { s.Requests = s.Requests[:n] })
		add("request of nobody", func(s *partner.Stored) { r := s.Requests[n]; r.ID = uuid.New(); s.Requests = append(s.Requests, r) })
	}
	if n := len(st.Partnerships) - 1; n >= 0 {
		add("partnership status", func(s *partner.Stored) { s.Partnerships[n].Status = s.Partnerships[n].Status%3 + 1 })
		add("partnership startedAt", func(s *partner.Stored) { later(&s.Partnerships[n].StartedAt) })
		add("partnership endedAt", func(s *partner.Stored) { later(&s.Partnerships[n].EndedAt) })
		add("partnership restorableUntil", func(s *partner.Stored) { later(&s.Partnerships[n].RestorableUntil) })
		add("partnership restoredCount", func(s *partner.Stored) { s.Partnerships[n].RestoredCount++ })
		add("partnership quiet", func(s *partner.Stored) { s.Partnerships[n].Quiet = !s.Partnerships[n].Quiet })
		add("partnership endedBy", func(s *partner.Stored) { s.Partnerships[n].EndedBy = uuid.New() })
		add("partnership row", func(s *partner.Stored) { s.Partnerships = s.Partnerships[:n] })
		if st.Partnerships[n].Status != partner.PartnershipActive {
			add("partnership lowSlot", func(s *partner.Stored) { s.Partnerships[n].LowSlot++ })
		}
	}
	if n := len(st.Breakups) - 1; n >= 0 {
		add("breakup status", func(s *partner.Stored) { s.Breakups[n].Status = s.Breakups[n].Status%6 + 1 })
		add("breakup asker", func(s *partner.Stored) { s.Breakups[n].Asker = s.Breakups[n].Pair.Other(s.Breakups[n].Asker) })
		add("breakup resolvedAt", func(s *partner.Stored) { later(&s.Breakups[n].ResolvedAt) })
		add("breakup row", func(s *partner.Stored) { s.Breakups = s.Breakups[:n] })
	}
	if st.Deleting { // what is held of a deleted user may have gone without an event, once
		return out
	}
	add("side blockedAt", func(s *partner.Stored) { later(&s.Low.BlockedAt) })
	add("side doorClosedAt", func(s *partner.Stored) { later(&s.High.DoorClosedAt) })
	add("side forfeited", func(s *partner.Stored) { s.Low.Forfeited = uuid.New() })
	add("side declines", func(s *partner.Stored) { s.High.Declines++ })
	return out
}

// TestHistoryIsNotChanged: a history that was handed out stays as it is.
func TestHistoryIsNotChanged(t *testing.T) {
	t.Parallel()
	for seed := range 20 {
		w, err := run(histories().Example(seed), partner.Decide)
		if err != nil {
			t.Fatal(err)
		}
		var kept, copies []partner.History
		all := map[partner.Pair]partner.History{}
		for _, e := range w.told {
			h, ok := all[e.Pair]
			if !ok {
				h = partner.NewHistory(e.Pair, true)
			}
			c := h
			c.Requests, c.Partnerships, c.Breakups = slices.Clone(h.Requests), slices.Clone(h.Partnerships), slices.Clone(h.Breakups)
			kept, copies = append(kept, h), append(copies, c)
			all[e.Pair] = partner.Evolve(h, e)
		}
		for i := range kept {
			if !reflect.DeepEqual(kept[i], copies[i]) {
				t.Fatalf("seed %d: event %d changed the history before it", seed, i)
			}
		}
	}
}

// TestHistoryWithoutItsBeginning: of what began before the oldest event only the end is
// known, and a row that should have an event is missed.
func TestHistoryWithoutItsBeginning(t *testing.T) {
	t.Parallel()
	pair := partner.PairOf(id(1), id(2))
	since := start().Add(100 * day)
	old := partner.Partnership{ID: id(9), Pair: pair, Status: partner.PartnershipActive, StartedAt: start(), LowSlot: 1, HighSlot: 1}
	young := old
	young.StartedAt = since.Add(time.Second)
	ended := since.Add(day)
	end := partner.Event{
		ID: id(20), Type: partner.EventPartnershipEnded, CommandID: id(21), Pair: pair, At: ended,
		Data: partner.EventData{PartnershipID: new(id(9)), ByUserID: new(id(1)), EndedAt: &ended, RestorableUntil: new(ended.Add(30 * day))},
	}
	over := old
	over.Status, over.EndedAt, over.RestorableUntil, over.EndedBy = partner.PartnershipEnded, ended, ended.Add(30*day), id(1)
	for name, tc := range map[string]struct {
		events  []partner.Event
		row     partner.Partnership
		differ  []string // fields
		dropped string
	}{
		"nothing is told of an old one":            {nil, old, nil, "partnership " + id(9).String()},
		"nothing is told of a young one":           {nil, young, []string{"row"}, ""},
		"its end is told":                          {[]partner.Event{end}, over, nil, "partnership " + id(9).String()},
		"its end is told and it is active":         {[]partner.Event{end}, old, []string{"status", "endedAt", "restorableUntil"}, "partnership " + id(9).String()},
		"the end of a young one without its start": {[]partner.Event{end}, func() partner.Partnership { p := over; p.StartedAt = young.StartedAt; return p }(), []string{"beginning"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := partner.Replay(partner.NewHistory(pair, false), slices.Values(tc.events))
			differences, dropped := partner.Compare(h, partner.Stored{Partnerships: []partner.Partnership{tc.row}}, partner.Horizon{Since: since})
			var fields []string
			for _, d := range differences {
				fields = append(fields, d.Field)
			}
			if !slices.Equal(fields, tc.differ) {
				t.Errorf("differences %v, want of %v", differences, tc.differ)
			}
			if got := strings.Join(dropped, " "); strings.Contains(got, "partnership") != (tc.dropped != "") || !strings.Contains(got, tc.dropped) {
				t.Errorf("dropped %q, want %q", got, tc.dropped)
			}
		})
	}
}
