package ingest

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what ingest counts. Labels come from closed sets: routes are templates.
type metrics struct {
	requests *prometheus.CounterVec   // route, method, status
	seconds  *prometheus.HistogramVec // route, method
	inFlight prometheus.Gauge
	panics   prometheus.Counter
	accepted *prometheus.CounterVec // type
	waits    *prometheus.CounterVec // outcome
	applied  prometheus.Histogram
	breaker  prometheus.Gauge
	replays  prometheus.Counter

	unchanged *prometheus.CounterVec // read

	refusalsLost prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, waiting func() float64) *metrics {
	buckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_http_requests_total", Help: "HTTP requests by route template, method and status.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bondmate_http_request_seconds", Help: "Time from arrival to the end of the answer; a call that waits counts its wait.",
			Buckets: buckets,
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bondmate_http_requests_in_flight", Help: "HTTP requests under way.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_http_panics_total", Help: "Handlers that panicked.",
		}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_ingest_commands_accepted_total", Help: "Commands acknowledged by the commands topic, by type.",
		}, []string{"type"}),
		waits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_ingest_waits_total", Help: "Calls that waited for an outcome, by how the wait ended: outcome, timeout, left.",
		}, []string{"end"}),
		applied: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bondmate_ingest_accept_to_outcome_seconds", Help: "From acceptedAt until a waiting call had read the outcome.",
			Buckets: buckets,
		}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bondmate_ingest_publisher_breaker_state", Help: "The publisher's breaker: 0 closed, 1 half-open, 2 open.",
		}),
		replays: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_auth_replays_total", Help: "Sessions that ended because an old refresh token of theirs was used: somebody has stolen one.",
		}),
	}
	m.unchanged = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bondmate_cache_unchanged_total", Help: "Cached reads whose client had the answer already: 304.",
	}, []string{"read"})
	m.refusalsLost = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "bondmate_ingest_refusals_unwritten_total", Help: "Users who reached a limit of whom the activity log has no line: too many at once, or no database.",
	})
	reg.MustRegister(m.replays, m.refusalsLost, m.requests, m.seconds, m.inFlight, m.panics, m.accepted, m.waits, m.applied, m.breaker, m.unchanged,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bondmate_ingest_database_waiting", Help: "Calls that wait for a pooled connection.",
		}, waiting))
	return m
}

func (m *metrics) observe(r *http.Request, x *exchange, status int, took time.Duration) {
	m.requests.WithLabelValues(x.route, methodLabel(r.Method), strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(x.route, methodLabel(r.Method)).Observe(took.Seconds())
}

// methodLabel keeps invented methods from making new series.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions:
		return method
	default:
		return "other"
	}
}
