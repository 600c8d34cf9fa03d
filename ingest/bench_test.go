package ingest_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/cache"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
	"github.com/bondmate/backend/pkg/redistest"
)

// nowhere acknowledges everything at once.
type nowhere struct{}

func (nowhere) Produce(context.Context, contract.Record) error { return nil }

func (nowhere) Offsets(context.Context, string) (start, end []int64, err error) {
	return make([]int64, partitions), make([]int64, partitions), nil
}

func (nowhere) Subscribe(func(contract.Event)) (cancel func()) { return func() {} }

func (nowhere) Ready() <-chan struct{} { return make(chan struct{}) }

// benched is a server for benchmarks, and the accounts in it.
func benched(b *testing.B, pool *pgxpool.Pool, change func(*accounts.Config, *ingest.Config)) (http.Handler, *accounts.Service) {
	b.Helper()
	keys, err := devKeys()
	if err != nil {
		b.Fatal(err)
	}
	issuer, _ := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
	verifier, _ := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
	passwords, _ := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1})
	log := slog.New(slog.DiscardHandler)
	people := accounts.Config{Pool: pool, Issuer: issuer, Passwords: passwords, Clock: time.Now, Log: log}
	administration, err := admin.New(admin.Config{Pool: pool, Partitions: partitions, Clock: time.Now, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	cfg := ingest.Config{
		Pool: pool, Publisher: nowhere{}, Offsets: nowhere{}, Events: nowhere{},
		Topics: contract.NewTopics("test"), Partitions: partitions, Admin: administration,
		Verifier: verifier, Keys: keys, Log: log, Registerer: prometheus.NewRegistry(), Clock: time.Now,
	}
	if change != nil {
		change(&people, &cfg)
	}
	if cfg.Accounts, err = accounts.New(people); err != nil {
		b.Fatal(err)
	}
	server, err := ingest.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return server.Handler(), cfg.Accounts
}

// BenchmarkSend is what a send costs in this package: routing, authentication,
// validation, binding, encoding and the answer; without a socket and without a broker.
func BenchmarkSend(b *testing.B) {
	handler, service := benched(b, postgrestest.New(b), nil)
	ana, err := service.Register(b.Context(), accounts.RegisterInput{Email: "ana@example.org", Password: "a long pass phrase", DisplayName: "Ana"})
	if err != nil {
		b.Fatal(err)
	}
	body := `{"toUserId":"` + uuid.NewString() + `","message":"It is me!"}`
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/api/enhanced-partners/request", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+ana.AccessToken)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		if rec.Code != http.StatusAccepted {
			b.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
}

// variant is one way to answer the cached reads.
type variant struct {
	name    string
	handler http.Handler
	tagged  bool // the client has the answer
}

// readers are couples, as many as n, and the ways to answer them, all over one database.
func readers(b *testing.B, n int) (tokens []string, variants []variant) {
	b.Helper()
	pool := postgrestest.New(b)
	shared := redistest.Start(b).Client(b)
	keys, err := devKeys()
	if err != nil {
		b.Fatal(err)
	}
	kept := func(change func(*cache.Config)) func(*accounts.Config, *ingest.Config) {
		cfg := cache.Config{
			Shape: ingest.Shape(), MemoryBytes: 8 << 20, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Clock: time.Now,
		}
		change(&cfg)
		c, err := cache.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { _ = c.Run(ctx); close(done) }()
		b.Cleanup(func() { cancel(); <-done })
		return func(_ *accounts.Config, cfg *ingest.Config) { cfg.Cache = c }
	}
	fresh, service := benched(b, pool, func(c *accounts.Config, _ *ingest.Config) { c.SessionCacheTTL = 1 })
	known, _ := benched(b, pool, nil)
	memory, _ := benched(b, pool, kept(func(*cache.Config) {}))
	redis, _ := benched(b, pool, kept(func(c *cache.Config) {
		c.MemoryBytes, c.Redis, c.Keys, c.RedisWithin = 1, shared, keys, time.Second // nothing finds room in memory
	}))
	variants = []variant{
		{"plain/fresh", fresh, false}, {"plain/known", known, false}, {"cached/memory", memory, false}, {"cached/redis", redis, false}, {"cached/304", memory, true},
	}
	var ids []uuid.UUID
	for i := range 2 * n {
		one, err := service.Register(b.Context(), accounts.RegisterInput{
			Email: fmt.Sprintf("%d@example.org", i), Password: "a long pass phrase", DisplayName: "Ana",
		})
		if err != nil {
			b.Fatal(err)
		}
		ids, tokens = append(ids, one.User.ID), append(tokens, one.AccessToken)
	}
	for i := 0; i < len(ids); i += 2 {
		if _, err := pool.Exec(b.Context(), `WITH p AS (INSERT INTO partnerships (id, low, high, status, started_at, version)
			VALUES (gen_random_uuid(), LEAST($1::uuid, $2::uuid), GREATEST($1::uuid, $2::uuid), 1, now(), 1) RETURNING id)
			INSERT INTO partnership_members (partnership_id, user_id, slot, active)
			SELECT p.id, u, 1, true FROM p, unnest(ARRAY[$1::uuid, $2::uuid]) AS u`, ids[i], ids[i+1]); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := pool.Exec(b.Context(), `ANALYZE`); err != nil {
		b.Fatal(err)
	}
	return tokens, variants
}

// read reads once and returns the ETag.
func (v variant) read(b *testing.B, path, token, tag string) string {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	want := http.StatusOK
	if v.tagged && tag != "" {
		r.Header.Set("If-None-Match", tag)
		want = http.StatusNotModified
	}
	rec := httptest.NewRecorder()
	v.handler.ServeHTTP(rec, r)
	if rec.Code != want {
		b.Errorf("%d %s", rec.Code, rec.Body)
	}
	return rec.Header().Get("ETag")
}

// BenchmarkReads is what the cached reads cost, without a cache and with it, from the request
// to the answer, over a real database: one after the other, and by 64 callers at once. The
// session is looked up with each read, as for a user who has just come; "plain/known" is
// without a cache for one whose session was looked up within the last second. The ways take
// turns, so that whatever else the machine does is in all of them; the figures are medians in
// microseconds.
func BenchmarkReads(b *testing.B) {
	const couples, callers = 50, 64
	tokens, variants := readers(b, couples)
	for _, path := range []string{"/api/profile", "/api/enhanced-partners/current", "/api/enhanced-partners/slots"} {
		tags := make([][]string, len(variants))
		for i, v := range variants {
			for _, token := range tokens {
				tags[i] = append(tags[i], v.read(b, path, token, ""))
			}
		}
		for name, callers := range map[string]int{"one": 1, "many": callers} {
			b.Run(path[strings.LastIndex(path, "/")+1:]+"/"+name, func(b *testing.B) {
				took := make([][]float64, len(variants))
				for b.Loop() {
					for i, v := range variants {
						began := time.Now()
						var group sync.WaitGroup
						for c := range callers {
							group.Go(func() { v.read(b, path, tokens[c], tags[i][c]) })
						}
						group.Wait()
						took[i] = append(took[i], float64(time.Since(began).Microseconds())/float64(callers))
					}
				}
				for i, v := range variants {
					slices.Sort(took[i])
					b.ReportMetric(took[i][len(took[i])/2], v.name+"-µs")
				}
				b.ReportMetric(0, "ns/op") // of no meaning here
			})
		}
	}
}
