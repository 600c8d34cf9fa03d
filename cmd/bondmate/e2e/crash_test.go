package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

// traffic posts commands without waiting for their outcome, each pair its own sends and
// cancels in turn, and remembers what was accepted.
type traffic struct {
	mu       sync.Mutex
	accepted []uuid.UUID
	count    atomic.Int64
}

// run posts n commands for each pair of phones; it stops early, without failing, when the
// context ends or the server goes away.
func (tr *traffic) run(ctx context.Context, phones []*phone.Phone, n int) {
	var group sync.WaitGroup
	for i := 0; i+1 < len(phones); i += 2 {
		group.Go(func() {
			a, b := phones[i], phones[i+1]
			var request uuid.UUID
			for k := 0; k < n && ctx.Err() == nil; k++ {
				var answer phone.Answer
				var err error
				if k%2 == 0 {
					answer, err = a.Send(ctx, b.UserID)
				} else {
					answer, err = a.Cancel(ctx, request)
				}
				if err != nil {
					return
				}
				if answer.Status != http.StatusAccepted {
					continue
				}
				outcome := answer.Outcome()
				request = outcome.RequestID
				tr.mu.Lock()
				tr.accepted = append(tr.accepted, outcome.CommandID)
				tr.mu.Unlock()
				tr.count.Add(1)
			}
		})
	}
	group.Wait()
}

// kill -9 of `bondmate all` in the middle of 2,000 accepted commands: after a restart on
// the same data every accepted command has exactly one outcome, no inbox has a gap, and
// every event is on the topic.
func TestKillAllUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := launch(t, []string{"all"}, "DATA_DIR="+dir)
	phones := people(t, p.server(), 50)

	var tr traffic
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tr.run(t.Context(), phones, 80)
	}()
	eventually(t, time.Minute, "1,000 commands are accepted", func() (bool, error) { return tr.count.Load() >= 1000, nil })
	p.kill()
	<-finished
	before := tr.count.Load()

	p = launch(t, []string{"all"}, "DATA_DIR="+dir)
	server := p.server()
	for _, ph := range phones {
		ph.Server = server
	}
	tr.run(t.Context(), phones, int(2000-before)/25+1)
	if tr.count.Load() < 2000 {
		t.Fatalf("only %d commands were accepted", tr.count.Load())
	}

	pool := connect(t, readAddress(t, dir, "postgres.dsn"))
	awaitApplied(t, pool, tr.accepted, 30*time.Second)
	verify(t, pool)
	client := bus.New(bus.Config{Brokers: []string{readAddress(t, dir, "kafka.addr")}}, testLog(t))
	t.Cleanup(client.Close)
	repeats := verifyTopic(t, pool, client, contract.NewTopics(contract.DefaultPrefix).Events)
	t.Logf("%d accepted before the kill, %d in all; %d event records repeated", before, tr.count.Load(), repeats)
}

// readAddress reads an address that `bondmate all` wrote into its data directory.
func readAddress(t *testing.T, dir, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}
