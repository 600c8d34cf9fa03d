// Package load drives a running server the way phones do and reports what it measured.
//
// Two questions, two ways of asking:
//
//   - Latency is measured open-loop: commands start on a fixed schedule whether or not the
//     ones before have ended, and the clock of each runs from its scheduled start, so a
//     server that stalls cannot hide it. The time is from the POST on one phone to the
//     event on the other phone's socket.
//   - Throughput is measured closed-loop: so many callers each wait for the outcome of a
//     command before they post the next.
//
// Every phone is a real account with its own connection and socket. Run starts and stops
// everything that it needs; it touches nothing but the server's public API.
package load

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// Config says how to load a server.
type Config struct {
	Server   *phone.Server
	Duration time.Duration
	Warmup   time.Duration // before measuring
	Pairs    int           // pairs of phones
	Rate     float64       // open-loop: commands a second over all pairs
	Progress func(done, failed int64)
}

// Report is what was measured. Times are sorted.
type Report struct {
	Offered  float64         // commands a second that the schedule asked for; 0 when closed-loop
	Achieved float64         // commands a second that ended well
	Failed   int64           // commands that were refused or whose event did not come
	Times    []time.Duration // POST → other phone's socket, or POST → outcome when closed-loop
	Answers  []time.Duration // open-loop: POST → 202
}

// Percentile returns the time that the share p (0 to 1) of the commands did not exceed.
func Percentile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[min(len(times)-1, int(p*float64(len(times))))]
}

// eventDeadline is how long an event may take before its command counts as failed.
const eventDeadline = 10 * time.Second

// pair is two phones: Ada posts, Ben listens.
type pair struct {
	ada, ben *phone.Phone
	socket   *realtimetest.Conn
	request  uuid.UUID // the one to cancel next; zero: send next

	mu      sync.Mutex
	waiting []time.Time // scheduled starts of the commands whose event has not come, in order
}

// enroll registers the phones.
func enroll(ctx context.Context, server *phone.Server, n int) ([]*pair, error) {
	phones, err := server.RegisterAll(ctx, "load", 2*n)
	if err != nil {
		return nil, fmt.Errorf("enroll phones: %w", err)
	}
	pairs := make([]*pair, n)
	for i := range pairs {
		pairs[i] = &pair{ada: phones[2*i], ben: phones[2*i+1]}
	}
	return pairs, nil
}

// Latency runs the open-loop measurement.
func Latency(ctx context.Context, cfg Config) (Report, error) {
	pairs, err := enroll(ctx, cfg.Server, cfg.Pairs)
	if err != nil {
		return Report{}, err
	}
	for _, p := range pairs {
		if p.socket, err = p.ben.Connect(ctx, nil); err != nil {
			return Report{}, fmt.Errorf("connect socket: %w", err)
		}
		defer func() { _ = p.socket.Close() }()
	}
	m := newMeasurement(cfg) // its time runs from here: what comes before may take as long as it takes
	listening, stop := context.WithCancel(ctx)
	defer stop()
	var listeners sync.WaitGroup
	for _, p := range pairs {
		listeners.Go(func() { m.listen(listening, p) })
	}

	var posting sync.WaitGroup
	interval := time.Duration(float64(time.Second) * float64(len(pairs)) / cfg.Rate)
	start := time.Now()
	for i, p := range pairs {
		first := start.Add(interval * time.Duration(i) / time.Duration(len(pairs)))
		posting.Go(func() {
			for at := first; at.Before(m.until) && ctx.Err() == nil; at = at.Add(interval) {
				if !sleepUntil(ctx, at) {
					return
				}
				m.post(ctx, p, at)
			}
		})
	}
	posted := make(chan struct{})
	go func() {
		posting.Wait()
		close(posted)
	}()
	cfg.follow(ctx, m, posted)
	m.awaitRest(ctx, pairs)
	stop()
	listeners.Wait()
	report := m.report(cfg.Duration)
	report.Offered = cfg.Rate
	return report, ctx.Err()
}

// Throughput runs the closed-loop measurement: every pair is one waiting caller.
func Throughput(ctx context.Context, cfg Config) (Report, error) {
	pairs, err := enroll(ctx, cfg.Server, cfg.Pairs)
	if err != nil {
		return Report{}, err
	}
	m := newMeasurement(cfg)
	var callers sync.WaitGroup
	for _, p := range pairs {
		callers.Go(func() {
			for time.Now().Before(m.until) && ctx.Err() == nil {
				start := time.Now()
				answer, err := p.next(ctx, phone.Wait(10))
				if err != nil || answer.Status != http.StatusOK {
					m.failed.Add(1)
					p.request = uuid.Nil // unknown what became of it: begin anew
					if !sleepUntil(ctx, time.Now().Add(10*time.Millisecond)) {
						return
					}
					continue
				}
				p.answered(answer)
				m.times.add(time.Since(start), start, m)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		callers.Wait()
		close(done)
	}()
	cfg.follow(ctx, m, done)
	return m.report(cfg.Duration), ctx.Err()
}

// follow reports progress once a second until done.
func (cfg Config) follow(ctx context.Context, m *measurement, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			if cfg.Progress != nil {
				cfg.Progress(m.times.all.Load(), m.failed.Load())
			}
		case <-ctx.Done():
			<-done
			return
		}
	}
}

// next posts the pair's next command: sends and cancels in turn.
func (p *pair) next(ctx context.Context, options ...phone.Option) (phone.Answer, error) {
	if p.request == uuid.Nil {
		return p.ada.Send(ctx, p.ben.UserID, options...)
	}
	return p.ada.Cancel(ctx, p.request, options...)
}

// answered notes what the next command has to be.
func (p *pair) answered(answer phone.Answer) {
	if p.request == uuid.Nil {
		p.request = answer.Outcome().RequestID
	} else {
		p.request = uuid.Nil
	}
}

// samples collects times.
type samples struct {
	mu    sync.Mutex
	times []time.Duration
	all   atomic.Int64 // warm-up included, for the progress
}

// add records a time when its command started within the measured span.
func (s *samples) add(took time.Duration, start time.Time, m *measurement) {
	s.all.Add(1)
	if start.Before(m.from) || start.After(m.until) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, took)
}

func (s *samples) sorted() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.times)
	return s.times
}

// measurement is one run; commands that start between from and until count.
type measurement struct {
	from, until time.Time
	times       samples
	answers     samples
	failed      atomic.Int64
}

func newMeasurement(cfg Config) *measurement {
	from := time.Now().Add(cfg.Warmup)
	return &measurement{from: from, until: from.Add(cfg.Duration)}
}

// post posts one command. The start is noted first: its event may overtake the answer.
func (m *measurement) post(ctx context.Context, p *pair, at time.Time) {
	p.mu.Lock()
	p.waiting = append(p.waiting, at)
	p.mu.Unlock()
	answer, err := p.next(ctx)
	if err != nil || answer.Status != http.StatusAccepted {
		m.failed.Add(1)
		p.mu.Lock()
		if n := len(p.waiting); n > 0 {
			p.waiting = p.waiting[:n-1]
		}
		p.mu.Unlock()
		return
	}
	m.answers.add(time.Since(at), at, m)
	p.answered(answer)
}

// listen takes the events of one socket: each answers the oldest command that waits.
func (m *measurement) listen(ctx context.Context, p *pair) {
	for {
		frame, err := p.socket.Next(ctx)
		if err != nil {
			return
		}
		if frame.Op != "event" {
			continue
		}
		p.mu.Lock()
		if len(p.waiting) > 0 {
			m.times.add(frame.Received.Sub(p.waiting[0]), p.waiting[0], m)
			p.waiting = p.waiting[1:]
		}
		p.mu.Unlock()
	}
}

// awaitRest gives the last events time to arrive and counts those that do not as failed.
func (m *measurement) awaitRest(ctx context.Context, pairs []*pair) {
	deadline := time.Now().Add(eventDeadline)
	for _, p := range pairs {
		for {
			p.mu.Lock()
			left := len(p.waiting)
			p.mu.Unlock()
			if left == 0 {
				break
			}
			if time.Now().After(deadline) || !sleepUntil(ctx, time.Now().Add(10*time.Millisecond)) {
				m.failed.Add(int64(left))
				break
			}
		}
	}
}

func (m *measurement) report(span time.Duration) Report {
	times := m.times.sorted()
	return Report{
		Achieved: float64(len(times)) / span.Seconds(),
		Failed:   m.failed.Load(),
		Times:    times,
		Answers:  m.answers.sorted(),
	}
}

func sleepUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
