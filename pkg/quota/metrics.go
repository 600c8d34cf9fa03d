package quota

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Who decided, as a label.
const (
	onRedis  = "redis"
	onMemory = "memory"
)

type metrics struct {
	decisions *prometheus.CounterVec   // class, outcome, backend
	seconds   *prometheus.HistogramVec // backend
	failures  prometheus.Counter
	breaker   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, l *Limiter) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_quota_decisions_total", Help: "Calls that were counted or refused, by class, outcome (admitted, refused) and who decided (redis, memory).",
		}, []string{"class", "outcome", "backend"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bondmate_quota_check_seconds", Help: "Time of a check, by who decided.",
			Buckets: []float64{1e-6, 5e-6, 25e-6, 100e-6, 250e-6, 500e-6, .001, .0025, .005, .01, .025, .05, .1, .15, .25},
		}, []string{"backend"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bondmate_quota_redis_failures_total", Help: "Checks that Redis did not answer in time, or not at all, so that this instance decided.",
		}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bondmate_quota_breaker_state", Help: "The breaker before Redis: 0 closed, 1 half-open, 2 open.",
		}),
	}
	all := []prometheus.Collector{m.decisions, m.seconds, m.failures, m.breaker}
	for _, kind := range []Kind{User, Address} {
		of := func(pick func(entries, bytes, evicted int) int) func() float64 {
			return func() float64 { return float64(pick(l.memory[kind].size())) }
		}
		labels := prometheus.Labels{"kind": kind.String()}
		all = append(all,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "bondmate_quota_memory_entries", Help: "Users and addresses that this instance counts.", ConstLabels: labels,
			}, of(func(entries, _, _ int) int { return entries })),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "bondmate_quota_memory_bytes", Help: "About how many bytes their counts take.", ConstLabels: labels,
			}, of(func(_, bytes, _ int) int { return bytes })),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "bondmate_quota_memory_evicted_total", Help: "Users and addresses that were forgotten for want of room.", ConstLabels: labels,
			}, of(func(_, _, evicted int) int { return evicted })),
		)
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register: %w", err)
		}
	}
	return m, nil
}
