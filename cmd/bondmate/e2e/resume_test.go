package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/bondmate/backend/cmd/bondmate/load"
	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// Phones on two gateways: whatever they do and whatever the gateways do, each receives
// exactly its inbox, in order.
func TestResumeOverTwoGateways(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	ingest := c.role("ingest")
	c.role("processor")
	ports := []string{"PORT=" + strconv.Itoa(freePort(t)), "PORT=" + strconv.Itoa(freePort(t))}
	gateways := []*process{c.role("realtime", ports[0]), c.role("realtime", ports[1])}
	servers := []*phone.Server{gateways[0].server(), gateways[1].server()}
	phones := people(t, ingest.server(), 32)
	listeners, senders := phones[:8], phones[24:]

	t.Run("phones that drop, lag, resume and lie", func(t *testing.T) {
		random := seeded(t)
		sending := sendTo(t, listeners, senders, 24, nil)
		var wanderers []*wanderer
		for _, p := range listeners {
			for range 2 {
				wanderers = append(wanderers, &wanderer{
					phone: p, servers: servers, random: rand.New(rand.NewPCG(random.Uint64(), 0)), seen: map[int64]uuid.UUID{}, did: map[string]int{},
				})
			}
		}
		did := map[string]int{}
		var mu sync.Mutex
		begin(t, wanderers, func(ctx context.Context, w *wanderer) error {
			err := w.roam(ctx, sending)
			mu.Lock()
			defer mu.Unlock()
			for what, n := range w.did {
				did[what] += n
			}
			return err
		})()
		for _, w := range wanderers {
			inbox := inboxOf(t, w.phone)
			if diff := cmp.Diff(inbox, w.held); diff != "" {
				t.Errorf("what a phone received differs from its inbox:\n%s", diff)
			}
			for seq, id := range w.seen {
				if inbox[seq-1] != id {
					t.Errorf("event %d was sent as %s, the inbox has %s", seq, id, inbox[seq-1])
				}
			}
		}
		for _, what := range []string{"honest", "again", "ahead", "other epoch", "from now on", "lag", "lying ack", "unknown op", "wrong type", "no JSON", "too large"} {
			if did[what] == 0 {
				t.Errorf("nobody has tried %q", what)
			}
		}
		var beyond int
		if err := c.pool.QueryRow(t.Context(), `SELECT count(*) FROM acks a JOIN user_streams s USING (user_id) WHERE a.seq > s.last_seq OR a.visible_seq > a.seq`).Scan(&beyond); err != nil || beyond != 0 {
			t.Errorf("%d acknowledgements of what was never sent, %v", beyond, err)
		}
		t.Logf("%d commands; %v", sending.count.Load(), did)
	})
	if t.Failed() {
		return // what was left behind would hold up the rest
	}

	t.Run("a stalled reader beside others", func(t *testing.T) {
		watchers, stalled := listeners[1:], listeners[0]
		// In turn, and what is sent to the stalled one is sent to them in any case.
		var calm, beside []time.Duration
		for round := range 6 {
			var stuck []*realtimetest.Conn
			if round%2 == 1 {
				for range 8 {
					stuck = append(stuck, dial(t, stalled, servers[0], realtimetest.Options{ReadBuffer: 2048}))
				}
			}
			flood := sendTo(t, []*phone.Phone{stalled}, senders[1:], 20, nil)
			took := watch(t, watchers, senders[:1], servers[0])
			<-flood.done
			awaitApplied(t, c.pool, flood.accepted, 30*time.Second)
			if stuck == nil {
				calm = append(calm, took...)
			} else {
				beside = append(beside, took...)
			}
			for _, s := range stuck {
				_ = s.Close()
			}
		}
		for _, times := range []struct {
			what string
			took []time.Duration
		}{{"without", calm}, {"beside 8 sockets that read nothing", beside}} {
			slices.Sort(times.took)
			t.Logf("applied to received, %s: p50 %v, p99 %v of %d events", times.what,
				load.Percentile(times.took, 0.5), load.Percentile(times.took, 0.99), len(times.took))
		}
	})

	t.Run("both gateways are replaced in turn", func(t *testing.T) {
		const sockets = 8 // of each phone
		var residents []*resident
		for _, p := range phones[:24] {
			start := int64(len(inboxOf(t, p)))
			for i := range sockets {
				residents = append(residents, &resident{
					phone: p, servers: servers, at: i % len(servers), after: start, began: make(chan struct{}),
				})
			}
		}
		replaced := make(chan struct{})
		sending := sendTo(t, phones[:24], senders[:2], 4, replaced)
		lived := begin(t, residents, func(ctx context.Context, r *resident) error { return r.live(ctx, sending) })
		for _, r := range residents {
			<-r.began
		}
		for i, g := range gateways {
			g.stop()
			gateways[i] = c.role("realtime", ports[i])
		}
		close(replaced)
		lived()
		var came []time.Time
		waits := map[int64]bool{}
		inboxes := map[uuid.UUID][]uuid.UUID{}
		for _, p := range phones[:24] {
			inboxes[p.UserID] = inboxOf(t, p)
		}
		for _, r := range residents {
			if diff := cmp.Diff(inboxes[r.phone.UserID][r.after:], r.held); diff != "" {
				t.Errorf("what a socket received differs from its inbox:\n%s", diff)
			}
			if len(r.came) == 0 {
				t.Error("a socket outlived its gateway")
			}
			came = append(came, r.came...)
			for _, ms := range r.told {
				waits[ms] = true
			}
		}
		if len(waits) < len(residents)/4 {
			t.Errorf("%d sockets were told %d different times to wait", len(residents), len(waits))
		}
		t.Logf("%d events each; %d sockets came again %d times, at most %d within a second",
			len(residents[0].held), len(residents), len(came), peak(came))
	})
	verify(t, c.pool)
}

// sending is traffic to several targets, the same for each.
type sending struct {
	traffic
	targets int
	done    chan struct{} // closed when every command is accepted
}

// sendTo has each sender ask each target, and take it back, in rounds of n commands until
// the channel is closed; once when it is nil. Each command is an event of the target's.
func sendTo(t *testing.T, targets, senders []*phone.Phone, n int, until <-chan struct{}) *sending {
	t.Helper()
	var pairs []*phone.Phone
	for _, s := range senders {
		for _, to := range targets {
			pairs = append(pairs, s, to)
		}
	}
	out := &sending{targets: len(targets), done: make(chan struct{})}
	go func() {
		defer close(out.done)
		for rounds := 1; ; rounds++ {
			out.run(t.Context(), pairs, n)
			if t.Context().Err() != nil {
				return
			}
			if got, want := out.count.Load(), int64(len(pairs)/2*n*rounds); got != want {
				t.Errorf("%d of %d commands accepted", got, want)
				return
			}
			select {
			case <-until:
				return
			default:
				if until == nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() { <-out.done })
	return out
}

// ended returns how many events each target gets in all, once that is known.
func (s *sending) ended() (events int64, ok bool) {
	select {
	case <-s.done:
		return s.count.Load() / int64(s.targets), true
	default:
		return 0, false
	}
}

// begin does something with all of them at once. What it returns waits for that, and fails
// the test with what went wrong.
func begin[T any](t *testing.T, list []T, do func(context.Context, T) error) (wait func()) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	for i, v := range list {
		group.Go(func() error {
			if err := do(ctx, v); err != nil {
				return fmt.Errorf("number %d: %w", i, err)
			}
			return nil
		})
	}
	return func() {
		t.Helper()
		defer cancel()
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

func inboxOf(t *testing.T, p *phone.Phone) []uuid.UUID {
	t.Helper()
	events, err := p.Inbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]uuid.UUID, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	return ids
}

func open(ctx context.Context, p *phone.Phone, server *phone.Server, o realtimetest.Options) (*realtimetest.Conn, realtimetest.Frame, error) {
	o.Token = p.AccessToken
	socket, err := realtimetest.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http")+"/api/realtime", o)
	if err != nil {
		return nil, realtimetest.Frame{}, err
	}
	ready, err := socket.NextOp(ctx, "ready")
	if err != nil {
		_ = socket.Close()
		return nil, realtimetest.Frame{}, err
	}
	return socket, ready, nil
}

func dial(t *testing.T, p *phone.Phone, server *phone.Server, o realtimetest.Options) *realtimetest.Conn {
	t.Helper()
	socket, _, err := open(t.Context(), p, server, o)
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// watch sends events to the watchers, who all sit on one server, from one sender at a time
// each, and returns how long each took from being applied to being received.
func watch(t *testing.T, watchers, senders []*phone.Phone, server *phone.Server) []time.Duration {
	t.Helper()
	const commands = 20
	sockets := make([]*realtimetest.Conn, len(watchers))
	for i, p := range watchers {
		sockets[i] = dial(t, p, server, realtimetest.Options{})
		defer func() { _ = sockets[i].Close() }()
	}
	sendTo(t, watchers, senders, commands, nil)
	var mu sync.Mutex
	var took []time.Duration
	begin(t, sockets, func(ctx context.Context, s *realtimetest.Conn) error {
		for range commands * len(senders) {
			f, err := s.NextOp(ctx, "event")
			if err != nil {
				return err
			}
			mu.Lock()
			took = append(took, f.Received.Sub(f.Time))
			mu.Unlock()
		}
		return nil
	})()
	return took
}

// wanderer is a phone on one gateway after the other that behaves at random. What an honest
// connection brought it holds; what a lie brought is compared with that afterwards.
type wanderer struct {
	phone   *phone.Phone
	servers []*phone.Server
	random  *rand.Rand
	held    []uuid.UUID         // events 1, 2, …
	seen    map[int64]uuid.UUID // what was said of a place, on any connection
	did     map[string]int
}

func (w *wanderer) chance(percent int) bool { return w.random.IntN(100) < percent }

// roam goes on until nothing more is sent and all of it is here.
func (w *wanderer) roam(ctx context.Context, from *sending) error {
	for {
		all, ended := from.ended()
		if ended && int64(len(w.held)) == all {
			return nil
		}
		if err := w.connect(ctx, ended); err != nil {
			return fmt.Errorf("holding %d: %w", len(w.held), err)
		}
	}
}

// connect opens one connection, in good faith or not, and stays for a while.
func (w *wanderer) connect(ctx context.Context, honest bool) error {
	n := int64(len(w.held))
	o, what, next, resumed, reason := realtimetest.Options{After: &n}, "honest", n+1, true, ""
	switch roll := w.random.IntN(100); {
	case honest || roll < 60:
	case roll < 75:
		n = w.random.Int64N(n + 1)
		what, next = "again", n+1
	case roll < 85:
		n += 1_000_000 + w.random.Int64N(1000)
		what, resumed, reason = "ahead", false, "after_ahead"
	case roll < 95:
		o.Epoch = "another"
		what, resumed, reason = "other epoch", false, "epoch_changed"
	default:
		o.After = nil
		what, resumed = "from now on", false
	}
	w.did[what]++
	o.Visible = w.chance(50)
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	socket, ready, err := open(within, w.phone, w.servers[w.random.IntN(len(w.servers))], o)
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }() // as a phone does that loses its network
	if ready.Resumed != resumed {
		return fmt.Errorf("%s after %d: resumed is %v", what, n, ready.Resumed)
	}
	if reason != "" {
		f, err := socket.NextOp(within, "resync")
		if err != nil || f.Reason != reason || f.Seq != ready.Seq || f.Epoch != ready.Epoch {
			return fmt.Errorf("%s after %d: %+v, %w", what, n, f, err)
		}
	}
	if !resumed {
		next = ready.Seq + 1
	}
	return w.stay(ctx, socket, next)
}

// stay reads the events from next on, and does what phones should and should not do.
func (w *wanderer) stay(ctx context.Context, socket *realtimetest.Conn, next int64) error {
	for range 1 + w.random.IntN(60) {
		patience, cancel := context.WithTimeout(ctx, time.Second)
		f, err := socket.Next(patience)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return ctx.Err() // nothing comes just now
		case err != nil:
			return fmt.Errorf("before event %d: %w", next, err)
		case f.Op == "pong" && f.Seq < next-1:
			return fmt.Errorf("the head is %d after event %d", f.Seq, next-1)
		case f.Op != "event":
			continue // an answer to what was done below
		case f.Seq != next:
			return fmt.Errorf("event %d, want %d", f.Seq, next)
		}
		next++
		if id, ok := w.seen[f.Seq]; ok && id != f.ID {
			return fmt.Errorf("event %d is %s and was %s", f.Seq, f.ID, id)
		}
		w.seen[f.Seq] = f.ID
		if f.Seq == int64(len(w.held))+1 {
			w.held = append(w.held, f.ID)
		}
		if closed := w.act(socket, f.Seq); closed != 0 {
			return w.closedWith(ctx, socket, closed)
		}
	}
	return nil
}

// act does something beside reading, and returns the code that the socket is closed with for it.
func (w *wanderer) act(socket *realtimetest.Conn, seq int64) (closed int) {
	// What cannot be written is a socket that has ended: reading it tells.
	switch roll := w.random.IntN(200); {
	case roll < 50:
		_ = socket.Ack(seq)
	case roll < 60:
		w.did["lying ack"]++
		_ = socket.Ack(seq + 1_000_000)
	case roll < 70:
		w.did["lag"]++
		time.Sleep(time.Duration(w.random.IntN(300)) * time.Millisecond)
	case roll < 75:
		w.did["unknown op"]++
		_ = socket.Send([]byte(`{"op":"dance"}`))
	case roll < 80:
		w.did["wrong type"]++
		_ = socket.Send([]byte(`{"op":"ack","seq":"all"}`))
	case roll < 90:
		_ = socket.Ping()
	case roll < 95:
		_ = socket.Visible(w.chance(50))
	case roll < 97:
		w.did["no JSON"]++
		_ = socket.Send([]byte(`hello?`))
		return 1008
	case roll < 99:
		w.did["too large"]++
		_ = socket.Send([]byte(`{"op":"` + strings.Repeat("x", 5<<10) + `"}`))
		return 1009
	}
	return 0
}

func (w *wanderer) closedWith(ctx context.Context, socket *realtimetest.Conn, code int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := socket.Next(ctx)
		if closed, ok := errors.AsType[*realtimetest.CloseError](err); ok && closed.Code == code {
			return nil
		}
		if err != nil {
			return fmt.Errorf("want it closed with %d: %w", code, err)
		}
	}
}

// resident is a socket that stays for as long as it can, and comes again as it is told to.
type resident struct {
	phone   *phone.Phone
	servers []*phone.Server
	at      int   // the server it is on
	after   int64 // where it began
	held    []uuid.UUID
	began   chan struct{}
	came    []time.Time // again
	told    []int64     // to wait so many milliseconds
}

func (r *resident) live(ctx context.Context, from *sending) error {
	for first := true; ; first = false {
		after := r.after + int64(len(r.held))
		socket, ready, err := open(ctx, r.phone, r.servers[r.at], realtimetest.Options{After: &after})
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// It is being replaced: the balancer's next try finds another.
			r.at = (r.at + 1) % len(r.servers)
			time.Sleep(rand.N(100 * time.Millisecond))
			continue
		}
		if !ready.Resumed {
			return fmt.Errorf("not resumed after %d", after)
		}
		if first {
			close(r.began)
		} else {
			r.came = append(r.came, time.Now())
		}
		done, err := r.read(ctx, socket, from)
		_ = socket.Close()
		if done || err != nil {
			return err
		}
		r.at = (r.at + 1) % len(r.servers)
	}
}

// read takes what comes until the server leaves, or all of it is here.
func (r *resident) read(ctx context.Context, socket *realtimetest.Conn, from *sending) (done bool, err error) {
	for {
		patience, cancel := context.WithTimeout(ctx, time.Second)
		f, err := socket.Next(patience)
		cancel()
		closed, leaving := errors.AsType[*realtimetest.CloseError](err)
		switch {
		case leaving && closed.Code == 1012 && closed.RetryAfterMs > 0:
			r.told = append(r.told, closed.RetryAfterMs)
			time.Sleep(time.Duration(closed.RetryAfterMs) * time.Millisecond)
			return false, nil
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			if all, ended := from.ended(); ended && int64(len(r.held)) == all {
				return true, nil
			}
		case err != nil:
			return false, err
		case f.Op != "event":
		case f.Seq != r.after+int64(len(r.held))+1:
			return false, fmt.Errorf("event %d, want %d", f.Seq, r.after+int64(len(r.held))+1)
		default:
			r.held = append(r.held, f.ID)
		}
	}
}

// peak returns how many of the times lie within one second at most.
func peak(times []time.Time) (most int) {
	slices.SortFunc(times, time.Time.Compare)
	for from, to := 0, 0; to < len(times); to++ {
		for times[to].Sub(times[from]) > time.Second {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}
