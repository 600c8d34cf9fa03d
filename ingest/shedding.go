package ingest

import (
	"container/list"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// shedAfter is how long the first of those who wait for a connection may have waited before
	// calls of the first rank are turned away, and each rank below bears twice as much. In
	// normal load it is milliseconds; a call that waits gives up after acquireTimeout. It says
	// something only when more than few wait.
	shedAfter = 150 * time.Millisecond
	// few may wait as long as they do: one that waits is a slow statement or a slow machine, and
	// turning others away would help nobody.
	few = 8
	// leastWaiting is how many may wait at least, however small the pool is.
	leastWaiting = 256
	// waitingPerConn is how many may wait for each connection before the first rank is turned
	// away, and each rank below bears twice as many.
	waitingPerConn = 4
	// defaultMaxQueued is how many commands may wait for their acknowledgement before others
	// are turned away; those of the last rank bear twice as many, and what the producer holds
	// (bus.ProducerConfig.MaxBuffered) is more than that.
	defaultMaxQueued = 1024
	// comeBack is within what time who is turned away shall try again, at random.
	comeBackMin, comeBackMax = time.Second, 4 * time.Second
)

// line is who waits for something, in the order in which they came.
type line struct {
	mu      sync.Mutex
	waiting list.List // of time.Time
}

// join puts the caller at the end, until it calls leave.
func (l *line) join() (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	place := l.waiting.PushBack(time.Now())
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting.Remove(place)
	}
}

// length is how many wait, and since when the first one does.
func (l *line) length() (n int, since time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	front := l.waiting.Front()
	if front == nil {
		return 0, 0
	}
	return l.waiting.Len(), time.Since(front.Value.(time.Time))
}

// shedding turns calls away at once that would only wait: with the pool or the producer
// saturated, all would wait longer and longer and fail in the end, the vital ones among them.
// How much is too much follows from the wait itself, so there is nothing to be tuned to a
// machine; by rank some are turned away early and some only when nothing else helps.
type shedding struct {
	database   *line
	queue      *line
	mostInLine int
	mostQueued int
	shed       *prometheus.CounterVec // rank, by
}

func newShedding(db *database, p *guardedPublisher, mostQueued int, reg prometheus.Registerer) *shedding {
	if mostQueued == 0 {
		mostQueued = defaultMaxQueued
	}
	s := &shedding{
		database: &db.line, queue: &p.line,
		mostInLine: max(leastWaiting, waitingPerConn*int(db.pool.Config().MaxConns)), mostQueued: mostQueued,
		shed: newShedCounter(),
	}
	reg.MustRegister(s.shed)
	return s
}

func newShedCounter() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bondmate_ingest_shed_total", Help: "Calls that were turned away as overloaded before anything was done for them, by rank and by what was saturated: database, queue.",
	}, []string{"rank", "by"})
}

// admit lets a call in, or answers overloaded. command says that it writes to the queue.
func (s *shedding) admit(r rank, command bool) error {
	if r == never {
		return nil
	}
	bears := 1 << (lists - r)
	if n, since := s.database.length(); n > few && since > shedAfter*time.Duration(bears) || n >= s.mostInLine*bears {
		return s.refuse(r, "database")
	}
	if !command {
		return nil
	}
	most := s.mostQueued
	if r == last {
		most *= 2
	}
	if n, _ := s.queue.length(); n >= most {
		return s.refuse(r, "queue")
	}
	return nil
}

func (s *shedding) refuse(r rank, by string) error {
	s.shed.WithLabelValues(r.String(), by).Inc()
	f := unavailable(nil, "overloaded", "Too much is going on; try again.")
	f.RetryAfter = comeBackMin + rand.N(comeBackMax-comeBackMin)
	return f
}
