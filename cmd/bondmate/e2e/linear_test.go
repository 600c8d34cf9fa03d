package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
)

// checkWithin bounds the search for an order that explains one history. Not to have found
// out by then is a failure.
const checkWithin = 20 * time.Second

// Users who share pairs and have few slots do what comes into their minds, with two phones
// each, over two ingest instances, two processors, Apache Kafka and Postgres: there is an
// order of all calls, each at one moment between its start and its answer, in which the
// rules give just these answers. And so there is when one of the processors is killed.
func TestLinearizability(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	c := newCluster(t, kafkatest.Apache(t), "")
	servers := [2]*phone.Server{c.role("ingest").server(), c.role("ingest").server()}
	c.role("processor")
	victim := c.role("processor")

	var calm []*clutch
	t.Run("calm", func(t *testing.T) {
		calm = liveTogether(t, c, servers, lives{clutches: 3, rounds: 4, lasts: time.Second, random: random})
		check(t, calm)
	})
	t.Run("a processor is killed", func(t *testing.T) {
		check(t, liveTogether(t, c, servers, lives{clutches: 2, rounds: 2, lasts: 5 * time.Second, random: random, meanwhile: func() {
			pause(t.Context(), 2*time.Second) // in the middle of it, wherever that is
			victim.kill()
			c.role("processor")
		}}))
	})
	verify(t, c.pool)
	if !t.Failed() {
		t.Run("a false answer is found", func(t *testing.T) {
			for range 5 { // a slow machine may not come as far as to a leave
				if i := slices.IndexFunc(calm, func(g *clutch) bool { return g.leave() >= 0 }); i >= 0 {
					findFalse(t, calm[i])
					return
				}
				calm = liveTogether(t, c, servers, lives{clutches: 3, rounds: 4, lasts: 2 * time.Second, random: random})
			}
			t.Fatal("in no history somebody left a partner")
		})
	}
}

// lives says how clutches live: in rounds, after each of which all is settled and looked at.
type lives struct {
	clutches  int
	rounds    int
	lasts     time.Duration // each round
	random    *rand.Rand
	meanwhile func() // in the first round
}

// liveTogether makes clutches and has them live.
func liveTogether(t *testing.T, c *cluster, servers [2]*phone.Server, how lives) []*clutch {
	t.Helper()
	all := make([]*clutch, how.clutches)
	for i := range all {
		all[i] = newClutch(t, c, servers)
	}
	for round := range how.rounds {
		var phones sync.WaitGroup
		until := time.Now().Add(how.lasts)
		for _, g := range all {
			g.live(&phones, until, how.random)
		}
		if how.meanwhile != nil && round == 0 {
			how.meanwhile()
		}
		phones.Wait()
		settled(t, c)
		for _, g := range all {
			g.closeUnknown()
			g.look()
		}
	}
	return all
}

// settled waits until whatever was queued is done, follow-ups and their follow-ups too.
func settled(t *testing.T, c *cluster) {
	t.Helper()
	eventually(t, 30*time.Second, "everything queued has been applied", func() (bool, error) {
		_, before, err := c.bus.Offsets(t.Context(), c.topics.Commands)
		if err != nil {
			return false, err
		}
		var relayed bool
		var applied int64
		if err := c.pool.QueryRow(t.Context(),
			`SELECT bool_and(relayed_seq = event_seq), sum(next_offset) FROM processor_partitions`).Scan(&relayed, &applied); err != nil {
			return false, err
		}
		_, after, err := c.bus.Offsets(t.Context(), c.topics.Commands)
		var queued int64
		for _, end := range after {
			queued += end
		}
		return relayed && applied == queued && slices.Equal(before, after), err
	})
}

// check looks for an order that explains each history.
func check(t *testing.T, all []*clutch) {
	t.Helper()
	for i, g := range all {
		m, history := g.history()
		model := m.porcupine()
		began := time.Now()
		result, info := porcupine.CheckOperationsVerbose(model, history, checkWithin)
		t.Logf("%s in %v: %s", result, time.Since(began).Round(time.Millisecond), g)
		if result == porcupine.Ok {
			continue
		}
		file := filepath.Join(os.TempDir(), fmt.Sprintf("bondmate-history-%d-%d.html", os.Getpid(), i))
		if err := porcupine.VisualizePath(model, info, file); err != nil {
			t.Error(err)
		}
		t.Errorf("the history of clutch %d is %s; %s shows it", i, result, file)
	}
}

// leave is the call that ended a partnership which an acceptance had started; -1: none did.
func (g *clutch) leave() int {
	m, history := g.history()
	return slices.IndexFunc(m.calls, func(c asked) bool {
		return c.verb == doRemove && history[c.index].Output.(told).code == "" && m.calls[c.named].verb == doAccept
	})
}

// findFalse changes single answers of a history to such as cannot be, and each must be found.
func findFalse(t *testing.T, g *clutch) {
	m, history := g.history()
	model := m.porcupine()
	mustFind := func(what string, at int, change func(*told)) {
		changed := slices.Clone(history)
		out := changed[at].Output.(told)
		out.list = slices.Clone(out.list)
		change(&out)
		changed[at].Output = out
		began := time.Now()
		result := porcupine.CheckOperationsTimeout(model, changed, checkWithin)
		t.Logf("%s, %s: %s in %v", what, describe(m.calls[at], out), result, time.Since(began).Round(time.Millisecond))
		if result != porcupine.Illegal {
			t.Errorf("%s: the history is %s", what, result)
		}
	}
	// One who was told "refused" and yet started a partnership that somebody ended later.
	ended := g.leave()
	mustFind("an acceptance that is called refused", m.calls[ended].named, func(out *told) { *out = refused("not_pending") })
	mustFind("a leave that is called refused", ended, func(out *told) { *out = refused("not_found") })
	refusal := slices.IndexFunc(history, func(op porcupine.Operation) bool {
		return op.Output.(told).code == "no_vacant_slot" && op.Input.(asked).verb == doAccept
	})
	if refusal >= 0 {
		mustFind("a full slot that is called taken", refusal, func(out *told) {
			*out = applied()
			out.request, out.partnership = m.calls[refusal].named, refusal
		})
	}
	// The last reads come one after the other, with nothing under way: one cannot show what
	// the other's does not.
	last := len(history) - 1
	mustFind("a partner whom only one of the two sees", last, func(out *told) {
		if len(out.list) > 0 {
			out.list = nil
			return
		}
		out.list = []int{m.calls[ended].named}
	})
}
