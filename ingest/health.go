package ingest

import (
	"context"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/edge"
)

// checkTimeout bounds each check of /health/detailed; they run at the same time.
const checkTimeout = 2 * time.Second

// Root implements GET /.
func (s *Server) Root(context.Context, api.RootRequestObject) (api.RootResponseObject, error) {
	return api.Root200JSONResponse{HealthJSONResponse: s.health()}, nil
}

// Health implements GET /health.
func (s *Server) Health(context.Context, api.HealthRequestObject) (api.HealthResponseObject, error) {
	return api.Health200JSONResponse{HealthJSONResponse: s.health()}, nil
}

// ApiHealth implements GET /api/health.
func (s *Server) ApiHealth(context.Context, api.ApiHealthRequestObject) (api.ApiHealthResponseObject, error) { //nolint:revive // generated name
	return api.ApiHealth200JSONResponse{HealthJSONResponse: s.health()}, nil
}

func (s *Server) health() api.HealthJSONResponse {
	now := s.clock()
	return api.HealthJSONResponse{Status: api.HealthStatusHealthy, Timestamp: now.UTC(), Uptime: now.Sub(s.started).Seconds()}
}

// Live implements GET /live.
func (s *Server) Live(context.Context, api.LiveRequestObject) (api.LiveResponseObject, error) {
	return api.Live200JSONResponse{Alive: true, Uptime: s.clock().Sub(s.started).Seconds()}, nil
}

// Ready implements GET /ready.
func (s *Server) Ready(context.Context, api.ReadyRequestObject) (api.ReadyResponseObject, error) {
	if s.isReady() {
		return api.Ready200JSONResponse{Ready: true}, nil
	}
	retry := int(defaultRetryAfter.Seconds())
	return api.Ready503JSONResponse{
		Body: api.Readiness{Ready: false}, Headers: api.Ready503ResponseHeaders{RetryAfter: &retry},
	}, nil
}

func (s *Server) isReady() bool {
	if s.ready != nil {
		return s.ready()
	}
	select {
	case <-s.events.Ready():
		return true
	default:
		return false
	}
}

// DetailedHealth implements GET /health/detailed. It is 200 also when a check fails: the
// probes to act on are /ready and /live.
func (s *Server) DetailedHealth(ctx context.Context, _ api.DetailedHealthRequestObject) (api.DetailedHealthResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	now := s.clock()
	answer := api.DetailedHealth200JSONResponse{
		Status: api.DetailedHealthStatusHealthy, Timestamp: now.UTC(), Uptime: now.Sub(s.started).Seconds(),
	}
	checks := &answer.Checks
	waiting, _ := s.db.line.length() // before the checks, which wait for connections, too
	var wg sync.WaitGroup
	wg.Go(func() { checks.Postgres = s.postgresHealth(ctx, waiting) })
	wg.Go(func() { checks.Kafka = s.kafkaHealth(ctx) })
	wg.Go(func() { checks.Redis = s.redisHealth(ctx) })
	checks.Memory = memoryHealth()
	wg.Wait()
	if checks.Postgres.Status != api.CheckStatusHealthy || checks.Kafka.Status != api.CheckStatusHealthy ||
		checks.Redis.Status == api.RedisHealthStatusUnhealthy {
		answer.Status = api.DetailedHealthStatusDegraded
	}
	return answer, nil
}

func (s *Server) postgresHealth(ctx context.Context, waiting int) api.PostgresHealth {
	began := time.Now()
	err := s.db.pool.Ping(ctx)
	stat := s.db.pool.Stat()
	h := api.PostgresHealth{
		Status: status(err), Connected: err == nil, ResponseTime: milliseconds(time.Since(began)),
		Pool: api.PoolHealth{
			MaxPoolSize:      int(stat.MaxConns()),
			TotalConnections: int(stat.TotalConns()),
			// Idle ones, and those that may still be opened.
			AvailableConnections: int(stat.MaxConns() - stat.AcquiredConns()),
			WaitQueueSize:        waiting,
			Status:               api.PoolHealthStatusHealthy,
		},
	}
	if h.Pool.AvailableConnections <= 0 {
		h.Pool.Status = api.PoolHealthStatusExhausted
	}
	return h
}

func (s *Server) kafkaHealth(ctx context.Context) api.KafkaHealth {
	state := s.publisher.state()
	began := time.Now()
	_, ends, err := s.pipe.offsets.Offsets(ctx, s.pipe.topic)
	h := api.KafkaHealth{
		Status: status(err), Connected: err == nil, ResponseTime: milliseconds(time.Since(began)), Breaker: &state,
	}
	if err == nil {
		if lag, err := s.pipe.lagBehind(ctx, ends); err == nil {
			h.Lag = &lag
		}
	}
	return h
}

func (s *Server) redisHealth(ctx context.Context) api.RedisHealth {
	switch {
	case s.redis == nil:
		return api.RedisHealth{Status: api.RedisHealthStatusDisabled}
	case s.redis(ctx) != nil:
		return api.RedisHealth{Status: api.RedisHealthStatusUnhealthy}
	default:
		return api.RedisHealth{Status: api.RedisHealthStatusHealthy}
	}
}

func memoryHealth() api.MemoryHealth {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return api.MemoryHealth{
		Status:    api.CheckStatusHealthy,
		HeapBytes: int64(m.HeapAlloc), SysBytes: int64(m.Sys), Goroutines: runtime.NumGoroutine(),
	}
}

func status(err error) api.CheckStatus {
	if err != nil {
		return api.CheckStatusUnhealthy
	}
	return api.CheckStatusHealthy
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// pages are the routes that answer a document as it is.
func (s *Server) pages() (map[string]http.Handler, error) {
	reference, err := renderReference(s.document.spec)
	if err != nil {
		return nil, err
	}
	pages := map[string]http.Handler{
		"/openapi.yaml":  static("application/yaml", openAPI),
		"/asyncapi.yaml": static("application/yaml", contract.AsyncAPI),
		"/docs":          static("text/html; charset=utf-8", reference),
	}
	schemas, err := contract.Schemas()
	if err != nil {
		return nil, err
	}
	byFile := make(map[string]http.Handler, len(schemas))
	for name, schema := range schemas {
		byFile[name+".json"] = static("application/schema+json", schema)
	}
	pages["/schemas/{file}"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		schema, ok := byFile[mux.Vars(r)["file"]]
		if !ok {
			s.writeProblem(w, r, notFound("No record has this type."))
			return
		}
		schema.ServeHTTP(w, r)
	})
	return pages, nil
}

// static answers a document that stays the same as long as the program runs.
func static(contentType string, body []byte) http.Handler {
	return edge.Static(edge.Page{
		ContentType: contentType, Body: body, MaxAge: 5 * time.Minute,
		Policy: "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	})
}
