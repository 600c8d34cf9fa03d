package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded"
)

const partitions = 3

func brokerConfig(dir string) embedded.BrokerConfig {
	return embedded.BrokerConfig{
		Dir: filepath.Join(dir, "kafka"), Topics: contract.NewTopics("test").Specs(partitions), Log: slog.New(slog.DiscardHandler),
	}
}

func client(t *testing.T, addr string) *bus.Client {
	t.Helper()
	c := bus.New(bus.Config{Brokers: []string{addr}}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return c
}

func write(t *testing.T, addr string, n int) {
	t.Helper()
	var records []contract.Record
	for i := range n {
		records = append(records, contract.Record{
			Topic: contract.NewTopics("test").Events, Partition: i % partitions, Time: time.Now(),
			Key: []byte("key"), Value: fmt.Append(nil, i),
		})
	}
	if err := client(t, addr).Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
}

func ends(t *testing.T, addr string) []int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, end, err := client(t, addr).Offsets(ctx, contract.NewTopics("test").Events)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func TestBrokerKeepsRecordsOverRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 3 {
		broker, err := embedded.StartBroker(brokerConfig(dir))
		if err != nil {
			t.Fatal(err)
		}
		want := []int64{int64(round), int64(round), int64(round)}
		if diff := cmp.Diff(want, ends(t, broker.Addr)); diff != "" {
			t.Errorf("end offsets at start %d (-want +got):\n%s", round, diff)
		}
		write(t, broker.Addr, partitions)
		broker.Close()
	}
}

func TestBrokerKeepsAcknowledgedRecordsOverKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kill, _, addr := startProcess(t, dir)
	write(t, addr, 30)
	kill()
	broker, err := embedded.StartBroker(brokerConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	if diff := cmp.Diff([]int64{10, 10, 10}, ends(t, broker.Addr)); diff != "" {
		t.Errorf("end offsets after kill -9 (-want +got):\n%s", diff)
	}
}

func TestBrokerForgetsGroupMembersButNotOffsets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	topic := contract.NewTopics("test").Events
	// A long session: a member that was remembered would hold up the second round for it.
	group := bus.GroupConfig{ID: "group", Topic: topic, SessionTimeout: 30 * time.Second}
	for round := range 3 {
		broker, err := embedded.StartBroker(brokerConfig(dir))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		begin, found := time.Now(), errors.New("found")
		err = client(t, broker.Addr).RunGroup(ctx, group, func(ctx context.Context, gen bus.Generation) error {
			t.Logf("round %d: joined after %v", round, time.Since(begin))
			for _, p := range gen.Partitions {
				if want := int64(round) - 1; p.Partition == 0 && round > 0 && p.Committed != want+5 {
					t.Errorf("committed before round %d: got %d, want %d", round, p.Committed, want+5)
				}
			}
			if err := gen.Commit(ctx, map[int]int64{0: int64(round) + 5}); err != nil {
				return err
			}
			broker.Close() // with the member still in the group
			return found
		})
		cancel()
		broker.Close()
		if !errors.Is(err, found) {
			t.Fatalf("round %d: got %v, want the group to be joined", round, err)
		}
	}
}

func TestBrokerRefusesAnotherPartitionCount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broker, err := embedded.StartBroker(brokerConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	broker.Close()
	cfg := brokerConfig(dir)
	cfg.Topics = contract.NewTopics("test").Specs(partitions + 1)
	broker, err = embedded.StartBroker(cfg)
	if err == nil {
		broker.Close()
		t.Fatal("started with another partition count: keys would change their partition")
	}
	if !strings.Contains(err.Error(), "KAFKA_PARTITIONS") {
		t.Errorf("the error does not say what to change: %v", err)
	}
}

func TestLockDirAdmitsOneProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	kill, _, _ := startProcess(t, dir)
	_, err := embedded.LockDir(dir)
	locked, ok := errors.AsType[*embedded.LockedError](err)
	if !ok {
		t.Fatalf("got %v, want a *LockedError", err)
	}
	if locked.PID == "" || !strings.Contains(err.Error(), locked.PID) || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error names neither process nor directory: %v", err)
	}
	kill()
	lock, err := embedded.LockDir(dir)
	if err != nil {
		t.Fatalf("the holder is dead: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}
