package cache

import "github.com/prometheus/client_golang/prometheus"

// outcome is what became of a read.
type outcome string

const (
	hit     outcome = "hit"
	miss    outcome = "miss"  // nothing is kept
	stale   outcome = "stale" // what is kept is of another version
	failed  outcome = "error" // Redis could not be asked
	garbled outcome = "garbled"
)

// The places that entries lie in.
const (
	backendMemory = "memory"
	backendRedis  = "redis"
)

// metrics is what the cache counts. Labels come from closed sets.
type metrics struct {
	requests *prometheus.CounterVec // read, backend, outcome
	dropped  prometheus.Counter
	breaker  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, kept *memory) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_cache_requests_total",
			Help: "Cached reads by the backend that was asked last and what it had: hit, miss, stale (of another version), error, garbled. All but hits were loaded from the database.",
		}, []string{"read", "backend", "outcome"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_cache_writes_dropped_total", Help: "Writes to Redis that were given up: it was away, or too many waited.",
		}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bondmate_cache_breaker_state", Help: "The breaker before Redis: 0 closed, 1 half-open, 2 open.",
		}),
	}
	reg.MustRegister(m.requests, m.dropped, m.breaker,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bondmate_cache_memory_bytes", Help: "What the entries in memory take, about.",
		}, func() float64 { return float64(kept.entries.WeightedSize()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bondmate_cache_memory_entries", Help: "Entries in memory.",
		}, func() float64 { return float64(kept.entries.EstimatedSize()) }),
	)
	return m
}

func (m *metrics) count(read Read, backend string, o outcome) {
	m.requests.WithLabelValues(string(read), backend, string(o)).Inc()
}
