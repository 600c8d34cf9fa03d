// Package ingest is the way in: HTTP calls become commands on Kafka, and reads are
// answered from the primary.
//
// What it guarantees: a command answered 202 was acknowledged by the commands topic with
// acks=all before the answer, so it has exactly one outcome (G1). It is written within
// the deadline from its arrival or answered 503, after which it may still have been
// written: the caller repeats with the same Idempotency-Key, and the processor drops
// repeats by the command's id. With Kafka away commands fail fast behind a breaker and
// reads go on; with Postgres away what needs it is 503 within seconds (G10).
//
// A call that waits for its outcome registers, looks, writes, waits for the event and
// looks again, so no wake-up is lost. A look-up that misses an id proves nothing while
// the command that makes it may be queued: it waits for the pipe first.
//
// Nobody calls more often than Config.Rates says; and with the pool or the producer saturated
// calls are turned away at once, those that matter least first. The table of both is conducts.
//
// The OpenAPI document (openapi.yaml) is the source of routes, models and validation.
// Its generated half is in package api, who has an account in package accounts, what
// operators may do in package admin, their page in package webconsole.
//
// A Server starts no goroutine until Run, which owns the look-up workers, the writer of
// refusals and the subscription to events and returns when its context ends. The Handler may
// be served as long as Run is running.
package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/cache"
	"github.com/bondmate/backend/ingest/webconsole"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// Publisher writes a record and returns once it is acknowledged. An error leaves open
// whether it was written.
type Publisher interface {
	Produce(ctx context.Context, rec contract.Record) error
}

// Offsets tells the bounds of a topic's partitions.
type Offsets interface {
	Offsets(ctx context.Context, topic string) (start, end []int64, err error)
}

// Events is the tail of the events topic. Handlers must not block. Ready is closed once
// the tail has its place on every partition.
type Events interface {
	Subscribe(handle func(contract.Event)) (cancel func())
	Ready() <-chan struct{}
}

// Config is what a Server needs. All fields up to Clock are required.
type Config struct {
	Pool       *pgxpool.Pool
	Publisher  Publisher
	Offsets    Offsets
	Events     Events
	Topics     contract.Topics
	Partitions int
	Accounts   *accounts.Service
	Admin      *admin.Service
	Verifier   *identity.Verifier
	Keys       *identity.Keys // for the JWKS route
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time

	Limits partner.Limits // default partner.DefaultLimits()
	// Deadline is how long after a call's arrival its command may still be written;
	// default 2.5 s. The processor must be given the same.
	Deadline time.Duration
	// Edge is what stands before the handlers; default one that trusts no proxy and admits no
	// other origin.
	Edge *edge.Edge
	// MinAppVersion is the oldest app that is served; the zero Version serves all.
	MinAppVersion edge.Version
	// Rates bounds how often who may call; nil: nothing does.
	Rates *Rates
	// MaxQueued is how many commands may wait for their acknowledgement before others are
	// turned away as overloaded; default 1024.
	MaxQueued int
	// Ready says whether the process should get traffic; nil: as soon as Events is ready.
	Ready func() bool
	// Redis checks Redis for /health/detailed; nil: it is not used.
	Redis func(ctx context.Context) error
	// Cache keeps the answers to hot reads; nil: each is read from the database. Its owner runs it.
	Cache *cache.Cache
	// Realtime serves GET /api/realtime when this process has that role, too.
	Realtime http.Handler
	// Console is the operators' page at /ops; nil: there is none, and no cookie counts.
	Console *webconsole.Console
	// Demo serves /demo and all below it, in development.
	Demo http.Handler
}

// Server is the ingest role. It implements api.StrictServerInterface.
type Server struct {
	*admin.Desk // the operations under /api/ops

	log       *slog.Logger
	clock     func() time.Time
	started   time.Time
	limits    partner.Limits
	accounts  *accounts.Service
	admin     *admin.Service
	verifier  *identity.Verifier
	keys      *identity.Keys
	events    Events
	ready     func() bool
	redis     func(ctx context.Context) error
	cache     *cache.Cache
	db        *database
	store     *store
	outcomes  *outcomes
	console   *webconsole.Console // nil without the page
	pipe      *pipe
	publisher *guardedPublisher
	commander *commander
	metrics   *metrics
	rates     *limiting // nil: nobody is limited
	shedding  *shedding
	document  *document
	exports   chan struct{} // a token for each export under way
	handler   http.Handler
}

// New wires a Server. It opens nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Pool == nil || cfg.Publisher == nil || cfg.Offsets == nil || cfg.Events == nil || cfg.Partitions <= 0 ||
		cfg.Accounts == nil || cfg.Admin == nil || cfg.Verifier == nil || cfg.Keys == nil || cfg.Log == nil || cfg.Registerer == nil || cfg.Clock == nil {
		return nil, errors.New("ingest: a required field of the configuration is missing")
	}
	if cfg.Limits == (partner.Limits{}) {
		cfg.Limits = partner.DefaultLimits()
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.Edge == nil {
		var err error
		if cfg.Edge, err = edge.New(edge.Config{Log: cfg.Log, Registerer: cfg.Registerer}); err != nil {
			return nil, err
		}
	}
	if err := cfg.Rates.check(); err != nil {
		return nil, err
	}
	document, err := loadDocument()
	if err != nil {
		return nil, err
	}
	db := &database{pool: cfg.Pool}
	m := newMetrics(cfg.Registerer, func() float64 { n, _ := db.line.length(); return float64(n) })
	s := &Server{
		admin: cfg.Admin,
		log:   cfg.Log, clock: cfg.Clock, started: cfg.Clock(), limits: cfg.Limits,
		accounts: cfg.Accounts, verifier: cfg.Verifier, keys: cfg.Keys,
		events: cfg.Events, ready: cfg.Ready, redis: cfg.Redis, cache: cfg.Cache, console: cfg.Console,
		db: db, store: &store{db: db}, outcomes: newOutcomes(db),
		pipe:      newPipe(db, cfg.Offsets, cfg.Topics.Commands),
		publisher: newGuardedPublisher(cfg.Publisher, m),
		metrics:   m, document: document, exports: make(chan struct{}, maxExports),
	}
	s.rates = newLimiting(cfg.Rates, m.refusalsLost.Inc)
	s.shedding = newShedding(db, s.publisher, cfg.MaxQueued, cfg.Registerer)
	s.Desk = admin.NewDesk(cfg.Admin, admin.Replayer{Topics: cfg.Topics, Partitions: cfg.Partitions, Publish: s.publisher.publish})
	s.commander = &commander{
		publisher: s.publisher, outcomes: s.outcomes, ledger: newLedger(),
		pairs:  newRecent[uuid.UUID, partner.Pair](recentPairs),
		topics: cfg.Topics, partitions: cfg.Partitions, deadline: cfg.Deadline,
		clock: cfg.Clock, metrics: m, log: cfg.Log,
	}
	if s.handler, err = s.routes(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Handler returns the whole HTTP side.
func (s *Server) Handler() http.Handler { return s.handler }

// Run answers look-ups, wakes waiting calls and writes down who was limited until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.events.Subscribe(s.outcomes.onEvent)()
	if s.cache != nil {
		defer s.events.Subscribe(s.forget)()
	}
	var writer sync.WaitGroup
	writer.Go(func() { s.rates.run(ctx, s) })
	s.outcomes.run(ctx)
	writer.Wait()
	return nil
}

func (s *Server) routes(cfg Config) (http.Handler, error) {
	router := mux.NewRouter().SkipClean(true) // a path is another path with a slash more, not a redirect
	api.HandlerWithOptions(
		api.NewStrictHandlerWithOptions(s, nil, api.StrictHTTPServerOptions{
			RequestErrorHandlerFunc:  s.writeBindError,
			ResponseErrorHandlerFunc: s.writeProblem,
		}),
		api.GorillaServerOptions{BaseRouter: router, ErrorHandlerFunc: s.writeBindError},
	)
	pages, err := s.pages()
	if err != nil {
		return nil, err
	}
	for path, page := range pages {
		router.Handle(path, page).Methods(http.MethodGet)
	}
	if err := s.document.bind(router); err != nil {
		return nil, fmt.Errorf("bind routes: %w", err)
	}
	router.Use(s.matched)
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeProblem(w, r, noSuchPath())
	})
	router.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", strings.Join(s.document.allowed(r, router), ", "))
		s.writeProblem(w, r, methodNotAllowed())
	})
	compressed, err := edge.Compress(router)
	if err != nil {
		return nil, err
	}
	return s.observed(cfg.Edge.Wrap(s.mounted(cfg, compressed))), nil
}

func noSuchPath() error { return notFound("There is nothing at this path.") }

func methodNotAllowed() error {
	return fault.New(fault.Invalid, "method_not_allowed", "The path has other methods; see Allow.")
}

// writeBindError answers what the generated code could not bind. Validation comes before
// it, so this is a value that the document allows and Go's types do not.
func (s *Server) writeBindError(w http.ResponseWriter, r *http.Request, err error) {
	f := fault.Wrap(err, fault.Invalid, "invalid_request", "A value has the wrong form.")
	if malformed, ok := errors.AsType[*api.InvalidParamFormatError](err); ok {
		f.Fields = fields{{Pointer: malformed.ParamName, Code: "wrong_format", Detail: "The value has the wrong format."}}
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		f.Fields = fields{{
			Pointer: jsonPointer(strings.Split(wrong.Field, ".")), Code: "wrong_type", Detail: "The value has the wrong type.",
		}}
	}
	s.writeProblem(w, r, f)
}
