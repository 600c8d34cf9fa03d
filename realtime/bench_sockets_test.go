package realtime_test

import (
	"cmp"
	"context"
	"encoding/csv"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

var (
	benchSockets = flag.Int("sockets", 200, "how many sockets TestSockets opens")
	benchRate    = flag.Int("rate", 2000, "events a second that TestSockets hands to a server")
	benchFor     = flag.Duration("for", 500*time.Millisecond, "how long TestSockets does so in a round")
	benchSettle  = flag.Duration("settle", 0, "how long TestSockets lets sockets be idle before it looks at memory")
	benchRounds  = flag.Int("rounds", 1, "rounds of TestSockets, each with both servers in turn")
	benchTopic   = flag.Int("topic", 5000, "events that TestSockets has the gateway take from a topic at most effort")
	benchOut     = flag.String("out", "", "a directory for the figures of TestSockets (sockets.csv) and its plot (sockets.svg)")
	benchProfile = flag.String("profile", "", "a directory for CPU profiles of the gateway in TestSockets")
)

const benchPartitions = 12

// benchRound is what a round measured of a server.
type benchRound struct {
	Server      string
	OpenMs      int64
	Open, After float64 // KiB of resident memory a socket: all open and idle, and after the events
	CPU         float64 // of the server, µs an event
	Readings    readings
}

func (r benchRound) at(q float64) time.Duration {
	return time.Duration(r.Readings.Quantiles[slices.Index(quantiles, q)])
}

// TestSockets opens many sockets on a gateway, and on a bare server with gorilla/websocket,
// and sends events over them: each server in a process of its own, with the same phones in
// another, in turns. As a test it is small, and demands that every event arrives, once and in
// order; `make bench-sockets` makes it large, for what it prints.
func TestSockets(t *testing.T) {
	if testing.Short() {
		t.Skip("processes of its own")
	}
	b := newBench(t)
	var rounds []benchRound
	for n := range *benchRounds {
		servers := []string{"gateway", "bare"}
		if n%2 == 1 {
			slices.Reverse(servers)
		}
		for _, server := range servers {
			r := b.round(server)
			rounds = append(rounds, r)
			t.Logf("%-8s opened in %d ms, %.1f KiB a socket, %.1f after the events; p50 %v, p99 %v, p99.9 %v; %.1f µs of CPU an event",
				r.Server, r.OpenMs, r.Open, r.After, r.at(0.5), r.at(0.99), r.at(0.999), r.CPU)
		}
	}
	var rates []float64
	for range *benchRounds {
		rate, cpu := b.topic()
		rates = append(rates, rate)
		t.Logf("gateway  %d events from the topic at most effort: %.0f a second, %.1f µs of CPU an event", *benchTopic, rate, cpu)
	}
	t.Log("medians of the rounds\n" + benchTable(rounds) + fmt.Sprintf("from the topic at most effort: %.0f events/s", median(rates)))
	if *benchOut != "" {
		if err := writeFigures(*benchOut, rounds); err != nil {
			t.Fatal(err)
		}
	}
}

// bench is what all rounds share.
type bench struct {
	*testing.T
	database, keys, tokens string
	epoch                  string
	users                  []uuid.UUID
}

func newBench(t *testing.T) *bench {
	dir := t.TempDir()
	b := &bench{T: t, keys: dir, tokens: filepath.Join(dir, "tokens"), users: make([]uuid.UUID, *benchSockets)}
	pool := postgrestest.New(t)
	b.database = postgrestest.URL(t, pool)
	keys, err := identity.LoadOrCreateDevelopmentKeys(b.keys)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := identity.NewIssuer(identity.IssuerConfig{
		Keys: keys, Issuer: benchIssuer, Audience: benchAudience, TTL: 12 * time.Hour, Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for i := range b.users {
		b.users[i] = uuid.New()
		token, _, err := issuer.Issue(identity.Claims{UserID: b.users[i], SessionID: b.users[i], Role: identity.RoleUser})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s %s\n", b.users[i], token)
	}
	if err := os.WriteFile(b.tokens, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`INSERT INTO users (id, display_name, partner_code, created_at) SELECT id, 'Robin', id::text, now() FROM unnest($1::uuid[]) k (id)`,
		`INSERT INTO user_streams (user_id) SELECT id FROM unnest($1::uuid[]) k (id)`,
		`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at)
			SELECT id, id, uuid_send(id), now(), now(), now() + interval '1 day' FROM unnest($1::uuid[]) k (id)`,
	} {
		if _, err := pool.Exec(t.Context(), sql, b.users); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.QueryRow(t.Context(), `SELECT epoch FROM stream_epoch`).Scan(&b.epoch); err != nil {
		t.Fatal(err)
	}
	return b
}

func readUsers(file string) ([]uuid.UUID, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var users []uuid.UUID
	for line := range strings.Lines(string(raw)) {
		id, _, _ := strings.Cut(line, " ")
		user, err := uuid.Parse(id)
		if err != nil {
			return nil, err
		}
		users = append(users, user)
	}
	return users, nil
}

// start starts a server with its phones, all of them connected.
func (b *bench) start(j job) (server, phones *process, r benchRound) {
	b.Helper()
	j.Database, j.Keys = b.database, b.keys
	server = startProcess(b, j)
	var address string
	server.hear("start", &address)
	server.ask("users "+b.tokens, new(int))
	phones = startProcess(b, job{Part: "phones", Address: address, Tokens: b.tokens, Hello: j.Part == "gateway"})
	r.Server = j.Part
	before := server.resident()
	var opened struct{ TookMs int64 }
	phones.ask("open "+strconv.Itoa(len(b.users)), &opened)
	<-time.After(*benchSettle) // how long they are idle is a part of the measurement
	r.OpenMs = opened.TookMs
	r.Open = float64(server.resident()-before) / 1024 / float64(len(b.users))
	r.After = -float64(before)
	return server, phones, r
}

func (b *bench) round(name string) benchRound {
	b.Helper()
	server, phones, r := b.start(job{Part: name})
	defer phones.stop()
	defer server.stop()
	b.profile(server, name)
	n := int(benchFor.Seconds() * float64(*benchRate))
	used := server.cpu()
	server.ask(fmt.Sprintf("fan %d %d", n, *benchRate), new(int64))
	phones.ask("await "+strconv.Itoa(n), &r.Readings)
	r.CPU = float64((server.cpu() - used).Microseconds()) / float64(n)
	r.After = (float64(server.resident()) + r.After) / 1024 / float64(len(b.users))
	b.profile(server, "")
	b.complete(r.Readings, n)
	return r
}

func (b *bench) complete(r readings, n int) {
	b.Helper()
	if r.Frames != int64(n) || r.Disorder != 0 || r.Ended != 0 {
		b.Errorf("%d frames of %d events, %d out of order, %d sockets ended", r.Frames, n, r.Disorder, r.Ended)
	}
}

// profile begins to note where a server's time goes, or with an empty name ends it.
func (b *bench) profile(server *process, name string) {
	if *benchProfile == "" {
		return
	}
	if name != "" {
		name = filepath.Join(*benchProfile, name+".pprof")
	}
	server.ask(strings.TrimSpace("profile "+name), new(any))
}

// topic has a gateway take events from a topic as fast as it can: they are written while it
// is held up at the first, and the clock runs from when it goes on to the last frame.
func (b *bench) topic() (rate, cpu float64) {
	b.Helper()
	broker := kafkatest.Embedded(b)
	if os.Getenv("TEST_KAFKA_BROKERS") != "" {
		broker = kafkatest.Apache(b)
	}
	name := kafkatest.Prefix(b) + "events"
	client := broker.Client(b)
	if err := client.EnsureTopics(b.Context(), []contract.Spec{{Name: name, Partitions: benchPartitions}}); err != nil {
		b.Fatal(err)
	}
	server, phones, _ := b.start(job{Part: "gateway", Brokers: broker.Brokers(), Topic: name})
	defer phones.stop()
	defer server.stop()
	b.profile(server, "topic")
	b.write(client, name)
	used, others := server.cpu(), phones.cpu()+ownCPU()
	start := time.Now()
	server.ask("go", new(any))
	var r readings
	phones.ask("await "+strconv.Itoa(*benchTopic), &r)
	b.profile(server, "")
	b.complete(r, *benchTopic)
	b.Logf("meanwhile %.1f µs of CPU an event for phones and broker", float64((phones.cpu()+ownCPU()-others).Microseconds())/float64(*benchTopic))
	return float64(*benchTopic) / time.Unix(0, r.LastAt).Sub(start).Seconds(),
		float64((server.cpu() - used).Microseconds()) / float64(*benchTopic)
}

// write appends the events to the topic: each for a user at random, and a user's all in one partition.
func (b *bench) write(client *bus.Client, topic string) {
	b.Helper()
	seqs := make([]int64, len(b.users))
	positions := make([]int64, benchPartitions)
	var batch []contract.Record
	flush := func() {
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		defer cancel()
		if err := client.Write(ctx, batch); err != nil {
			b.Fatal(err)
		}
		batch = batch[:0]
	}
	for range *benchTopic {
		user := rand.IntN(len(b.users))
		partition := user % benchPartitions
		seqs[user]++
		positions[partition]++
		rec, err := contract.EncodeEvent(topic, partition, benchEvent(b.users[user], seqs[user], b.epoch, positions[partition]))
		if err != nil {
			b.Fatal(err)
		}
		if batch = append(batch, rec); len(batch) == 2000 {
			flush()
		}
	}
	flush()
}

func median[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func medianOf[T cmp.Ordered](rounds []benchRound, server string, value func(benchRound) T) T {
	var values []T
	for _, r := range rounds {
		if r.Server == server {
			values = append(values, value(r))
		}
	}
	return median(values)
}

func benchTable(rounds []benchRound) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	_, _ = fmt.Fprintln(w, "| server\t| KiB a socket: idle, after the events\t| p50\t| p90\t| p99\t| p99.9\t| CPU an event\t|")
	_, _ = fmt.Fprintln(w, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, server := range []string{"gateway", "bare"} {
		ms := func(q float64) string {
			d := medianOf(rounds, server, func(r benchRound) time.Duration { return r.at(q) })
			return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
		}
		_, _ = fmt.Fprintf(w, "| %s\t| %.1f, %.1f\t| %s\t| %s\t| %s\t| %s\t| %.0f µs\t|\n", server,
			medianOf(rounds, server, func(r benchRound) float64 { return r.Open }), medianOf(rounds, server, func(r benchRound) float64 { return r.After }),
			ms(0.5), ms(0.9), ms(0.99), ms(0.999), medianOf(rounds, server, func(r benchRound) float64 { return r.CPU }))
	}
	_ = w.Flush()
	return out.String()
}

// writeFigures writes what every round measured, and the plot of their medians.
func writeFigures(dir string, rounds []benchRound) error {
	if err := os.WriteFile(filepath.Join(dir, "sockets.svg"), plot(rounds), 0o600); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "sockets.csv"))
	if err != nil {
		return err
	}
	defer file.Close()
	w := csv.NewWriter(file)
	head := []string{"server", "kib_idle", "kib_after", "cpu_us"}
	for _, q := range quantiles {
		head = append(head, fmt.Sprintf("p%g_us", q*100))
	}
	_ = w.Write(head)
	for _, r := range rounds {
		line := []string{r.Server, fmt.Sprintf("%.2f", r.Open), fmt.Sprintf("%.2f", r.After), fmt.Sprintf("%.1f", r.CPU)}
		for _, ns := range r.Readings.Quantiles {
			line = append(line, fmt.Sprintf("%.1f", float64(ns)/1000))
		}
		_ = w.Write(line)
	}
	w.Flush()
	return w.Error()
}
