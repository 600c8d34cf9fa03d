package realtime

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Gateway serves the sockets of one instance.
type Gateway struct {
	cfg      Config
	m        *metrics
	hub      *hub
	window   *window
	reads    *reads
	store    *store
	acks     acks
	presence *presence // nil without Config.Peers
	upgrader websocket.Upgrader
	pending  chan struct{} // one for each socket that is not ready yet

	// life ends when Run gives up on what is still open.
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex
	serving bool
	sockets map[*socket]struct{}
	gone    chan struct{} // closed and replaced whenever a socket ends

	running sync.WaitGroup // the goroutines of all sockets
}

// New returns a gateway that serves once Run runs and the events are ready.
func New(cfg Config) (*Gateway, error) {
	cfg = cfg.withDefaults()
	g := &Gateway{
		cfg: cfg, m: newMetrics(cfg.Registerer), hub: newHub(),
		pending: make(chan struct{}, cfg.MaxPending),
		sockets: make(map[*socket]struct{}), gone: make(chan struct{}),
	}
	if cfg.Peers != nil {
		g.presence = newPresence(g)
	}
	g.life, g.end = context.WithCancel(context.Background())
	g.window = newWindow(cfg)
	g.reads = newReads(g)
	g.store = newStore(cfg)
	g.upgrader = websocket.Upgrader{
		HandshakeTimeout: cfg.HelloWithin,
		// Small, since most sockets are idle most of the time: the read buffer stays with
		// the socket, the write buffer only while a frame is written.
		ReadBufferSize:  512,
		WriteBufferSize: 1024,
		WriteBufferPool: &sync.Pool{},
		Subprotocols:    []string{Subprotocol},
		CheckOrigin:     g.originAllowed,
		Error:           upgradeFailed,
		// No compression: it costs a window a socket, and frames are small.
	}
	return g, nil
}

// Run serves until ctx ends, then closes what is open with 1012, writes the last
// acknowledgements and waits for every goroutine. It is called once.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.end()
	cancel := g.cfg.Events.Subscribe(g.onEvent)
	defer cancel()
	if g.cfg.Control != nil {
		cancel := g.cfg.Control.Subscribe(g.onRevoked)
		defer cancel()
	}
	showing, hide := context.WithCancel(context.WithoutCancel(ctx)) // until the last socket has ended
	defer hide()
	var own sync.WaitGroup
	if g.presence != nil {
		cancel := g.cfg.Peers.Subscribe(g.presence.heard)
		defer cancel()
		own.Go(func() { g.presence.run(showing) })
	}
	own.Go(func() { g.flushAcks(ctx) })
	own.Go(func() { g.sweep(ctx) })
	select {
	case <-g.cfg.Events.Ready():
		g.setServing(true)
		<-ctx.Done()
	case <-ctx.Done():
	}
	g.shutdown()
	hide()
	own.Wait()
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.ReadWithin)
	defer cancelLast()
	if err := g.flush(last); err != nil {
		g.cfg.Log.WarnContext(ctx, "the last acknowledgements are lost", "error", err)
	}
	return nil
}

// shutdown closes every socket and waits for their goroutines.
func (g *Gateway) shutdown() {
	g.setServing(false)
	for _, s := range g.open() {
		s.close(websocket.CloseServiceRestart, g.retryReason())
	}
	ended := make(chan struct{})
	go func() { g.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-time.After(3 * g.cfg.CloseWithin):
	}
	g.end()
	for _, s := range g.open() {
		_ = s.conn.Close()
	}
	<-ended
}

// Drain refuses new sockets and closes the open ones in shuffled batches over
// Config.DrainWithin, each told by a jittered retryAfterMs when to come again: so the
// other instances see a slope, not a wall. It returns when all are closed or ctx ends.
// Run goes on until its own context ends.
func (g *Gateway) Drain(ctx context.Context) error {
	g.setServing(false)
	list := g.open()
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	const batches = 20
	for size := max(10, (len(list)+batches-1)/batches); len(list) > 0; {
		n := min(size, len(list))
		for _, s := range list[:n] {
			s.close(websocket.CloseServiceRestart, g.retryReason())
		}
		if list = list[n:]; len(list) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("drain with %d sockets open: %w", len(list), ctx.Err())
		case <-time.After(rand.N(2 * g.cfg.DrainWithin / batches)):
		}
	}
	for {
		g.mu.Lock()
		left, gone := len(g.sockets), g.gone
		g.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("drain with %d sockets open: %w", left, ctx.Err())
		case <-gone:
		}
	}
}

// retryReason spreads reconnects: by a millisecond for each socket that will come with
// it, between half a second and ten.
func (g *Gateway) retryReason() string {
	g.mu.Lock()
	n := len(g.sockets)
	g.mu.Unlock()
	spread := min(max(int64(n), 500), 10_000)
	return string(encode(closeReason{RetryAfterMs: 100 + rand.Int64N(spread)}))
}

func (g *Gateway) setServing(on bool) {
	g.mu.Lock()
	g.serving = on
	g.mu.Unlock()
}

// isLeaving reports whether the gateway no longer serves.
func (g *Gateway) isLeaving() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.serving
}

func (g *Gateway) open() []*socket {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*socket, 0, len(g.sockets))
	for s := range g.sockets {
		list = append(list, s)
	}
	return list
}

// admits reports whether one more socket may come.
func (g *Gateway) admits() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.serving && len(g.sockets) < g.cfg.MaxSockets
}

// start hands the socket to its reader, or reports false when the gateway has stopped
// serving meanwhile.
func (g *Gateway) start(s *socket, release func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.serving {
		return false
	}
	g.sockets[s] = struct{}{}
	g.m.sockets.WithLabelValues(statePending.String()).Inc()
	g.running.Go(func() {
		s.run(release)
		g.mu.Lock()
		delete(g.sockets, s)
		close(g.gone)
		g.gone = make(chan struct{})
		g.mu.Unlock()
	})
	return true
}
