package realtime_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/postgres"
	"github.com/bondmate/backend/pkg/service"
	"github.com/bondmate/backend/realtime"
)

// The servers of TestSockets: a gateway as it is, and next to it the least that a server
// with gorilla/websocket can be.

const (
	benchIssuer   = "bench"
	benchAudience = "sockets"
)

// fanOut makes n events, rate a second or, with 0, as fast as they are taken, each for a
// user at random. The schedule is fixed: what is late is made up for.
func fanOut(n, rate int, users []uuid.UUID, hand func(user int)) {
	start := time.Now()
	for i := range n {
		if rate > 0 {
			if ahead := time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))); ahead > 0 {
				time.Sleep(ahead)
			}
		}
		hand(rand.IntN(len(users)))
	}
}

// serverCommands says where the server listens and then answers "users FILE" (those of the
// phones), "fan N RATE", "go" (see held), and "profile FILE", which notes where time goes until "profile" alone.
func serverCommands(address string, hold chan struct{}, hand func(user uuid.UUID, seq int64)) error {
	fmt.Printf("%q\n", address)
	var (
		users []uuid.UUID
		seqs  []int64
		file  *os.File
	)
	return answer(func(command string, args []string) (any, error) {
		switch command {
		case "users":
			var err error
			if users, err = readUsers(args[0]); err != nil {
				return nil, err
			}
			seqs = make([]int64, len(users))
			return len(users), nil
		case "fan":
			n, err := strconv.Atoi(args[0])
			if err != nil {
				return nil, err
			}
			rate, err := strconv.Atoi(args[1])
			if err != nil {
				return nil, err
			}
			start := time.Now()
			fanOut(n, rate, users, func(user int) {
				seqs[user]++
				hand(users[user], seqs[user])
			})
			return time.Since(start).Milliseconds(), nil
		case "go":
			close(hold)
			return nil, nil
		case "profile":
			if file != nil {
				pprof.StopCPUProfile()
				return nil, file.Close()
			}
			var err error
			if file, err = os.Create(args[0]); err != nil {
				return nil, err
			}
			return nil, pprof.StartCPUProfile(file)
		default:
			return nil, fmt.Errorf("no command %q", command)
		}
	})
}

// feed is the events that the gateway is handed when no topic is.
type feed struct {
	handle func(contract.Event)
	ready  chan struct{}
}

func (f *feed) Subscribe(handle func(contract.Event)) func() {
	f.handle = handle
	close(f.ready)
	return func() {}
}

func (f *feed) Ready() <-chan struct{} { return f.ready }

// held keeps a tail waiting at its first event until the command "go".
type held struct {
	realtime.Events
	until chan struct{}
}

func (h held) Subscribe(handle func(contract.Event)) func() {
	return h.Events.Subscribe(func(ev contract.Event) {
		<-h.until
		handle(ev)
	})
}

func serveGateway(j job) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	pool, err := postgres.Open(ctx, postgres.Config{URL: j.Database})
	if err != nil {
		return err
	}
	defer pool.Close()
	keys, err := identity.LoadOrCreateDevelopmentKeys(j.Keys)
	if err != nil {
		return err
	}
	verifier, err := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: benchIssuer, Audience: benchAudience, Clock: time.Now})
	if err != nil {
		return err
	}
	var epoch string
	if err := pool.QueryRow(ctx, `SELECT epoch FROM stream_epoch`).Scan(&epoch); err != nil {
		return err
	}
	var running sync.WaitGroup
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	own, hold := &feed{ready: make(chan struct{})}, make(chan struct{})
	cfg := realtime.Config{
		Pool: pool, Verifier: verifier, Events: own, Log: log, Registerer: prometheus.NewRegistry(),
		// The events have no rows behind them: a stall of the machine must not send anybody there.
		StraightFor: time.Hour, ConfirmedFor: time.Hour,
	}
	if len(j.Brokers) > 0 {
		client := bus.New(bus.Config{Brokers: j.Brokers}, log)
		defer client.Close()
		tail := bus.NewEventTail(client, j.Topic, benchPartitions, prometheus.NewRegistry())
		cfg.Events = held{tail, hold}
		running.Go(func() {
			if err := tail.Run(ctx); err != nil {
				log.Error("tail", "error", err)
			}
		})
	}
	g, err := realtime.New(cfg)
	if err != nil {
		return err
	}
	server, err := service.Listen(ctx, "127.0.0.1:0", g.Handler(), log)
	if err != nil {
		return err
	}
	running.Go(func() { _ = g.Run(ctx) })
	running.Go(func() { _ = server.Run(ctx) })
	<-cfg.Events.Ready()
	err = serverCommands(server.Addr().String(), hold, func(user uuid.UUID, seq int64) { own.handle(benchEvent(user, seq, epoch, 0)) })
	cancel()
	running.Wait()
	return err
}

// benchEvent is an event for one user. Its data says when it was made.
func benchEvent(user uuid.UUID, seq int64, epoch string, position int64) contract.Event {
	now := time.Now()
	return contract.Event{
		EventID: user, CommandID: user, Type: "request.received", Version: 1, Epoch: epoch, Pair: user.String() + ":" + user.String(),
		Seq: position, AppliedAt: now, AcceptedAt: now,
		Recipients: []contract.Recipient{{UserID: user, InboxSeq: seq}},
		Data:       append(strconv.AppendInt([]byte(`{"at":`), now.UnixNano(), 10), '}'),
	}
}

// bareClient is a connection of the bare server: two pumps and a channel between them, as
// gorilla's examples have it.
type bareClient struct {
	conn *websocket.Conn
	send chan []byte
}

func serveBare(job) error {
	const heartbeat, patience = 25 * time.Second, 10 * time.Second
	var (
		mu      sync.RWMutex
		clients = make(map[uuid.UUID]*bareClient)
	)
	upgrader := websocket.Upgrader{
		ReadBufferSize: 1024, WriteBufferSize: 1024, WriteBufferPool: &sync.Pool{}, Subprotocols: []string{"bondmate.v1"},
	}
	read := func(user uuid.UUID, c *bareClient) {
		defer func() {
			mu.Lock()
			delete(clients, user)
			mu.Unlock()
			close(c.send)
			_ = c.conn.Close()
		}()
		c.conn.SetReadLimit(4096)
		extend := func(string) error { return c.conn.SetReadDeadline(time.Now().Add(heartbeat + patience)) }
		c.conn.SetPongHandler(extend)
		for _ = extend(""); ; {
			if _, _, err := c.conn.ReadMessage(); err != nil {
				return
			}
		}
	}
	write := func(c *bareClient) {
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		for {
			select {
			case body, ok := <-c.send:
				_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
				if !ok || c.conn.WriteMessage(websocket.TextMessage, body) != nil {
					return
				}
			case <-ticker.C:
				if c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)) != nil {
					return
				}
			}
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := uuid.Parse(r.URL.Query().Get("user"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := &bareClient{conn: conn, send: make(chan []byte, 16)}
		mu.Lock()
		clients[user] = c
		mu.Unlock()
		go write(c)
		go read(user, c)
	})}
	go func() { _ = server.Serve(listener) }()
	return serverCommands(listener.Addr().String(), nil, func(user uuid.UUID, seq int64) {
		body := fmt.Appendf(nil, `{"op":"event","seq":%d,"id":%q,"type":"request.received","time":"2026-01-02T03:04:05.123456789Z","data":{"at":%d}}`,
			seq, user, time.Now().UnixNano())
		mu.RLock()
		defer mu.RUnlock()
		if c := clients[user]; c != nil {
			select {
			case c.send <- body:
			default: // a real one would close it
			}
		}
	})
}
