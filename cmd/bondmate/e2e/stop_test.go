package e2e

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// SIGTERM stops `bondmate all` in order: who listens is told to come again, the servers go
// with it, and what was accepted is there when it comes back. Before that a second one on
// the same directory was refused and did no harm.
func TestStopAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := launch(t, []string{"all"}, "DATA_DIR="+dir)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	second := exec.CommandContext(ctx, program, "all")
	second.Env = append(os.Environ(), "PORT=0", "DATA_DIR="+dir)
	out, err := second.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !bytes.Contains(out, []byte(dir)) {
		t.Errorf("a second one on the same directory: %v, want exit code 1 and a word about %s:\n%s", err, dir, out)
	}

	phones := people(t, p.server(), 2)
	socket, err := phones[1].Connect(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	answer, err := phones[0].Send(t.Context(), phones[1].UserID)
	if err != nil || answer.Status != http.StatusAccepted {
		t.Fatalf("send: status %d, %v", answer.Status, err)
	}
	accepted := answer.Outcome().CommandID

	begin := time.Now()
	p.stop()
	t.Logf("stopped within %v", time.Since(begin))
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	reading, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		_, err = socket.Next(reading)
		if err != nil {
			break
		}
	}
	if closed, ok := errors.AsType[*realtimetest.CloseError](err); !ok || closed.Code != 1012 {
		t.Errorf("the socket ended with %v, want close code 1012", err)
	}
	// PostgreSQL removes this file when it stops in order, and only then.
	if _, err := os.Stat(filepath.Join(dir, "postgres", "data", "postmaster.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("PostgreSQL was not stopped in order: %v", err)
	}

	p = launch(t, []string{"all"}, "DATA_DIR="+dir)
	pool := connect(t, readAddress(t, dir, "postgres.dsn"))
	outcomes := awaitApplied(t, pool, []uuid.UUID{accepted}, 15*time.Second)
	if got := outcomes[accepted]; got != "applied" {
		t.Errorf("the accepted command: %s instead of applied", got)
	}
	phones[1].Server = p.server()
	events, err := phones[1].Inbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e phone.InboxEvent) bool { return e.Type == "request.received" }) {
		t.Errorf("the inbox lacks the request: %+v", events)
	}
	verify(t, pool)
}
