package retention

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	removed  *prometheus.CounterVec // table
	success  *prometheus.GaugeVec   // task
	failures *prometheus.CounterVec // task
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "bondmate", "retention"
	m := &metrics{
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "removed_total", Help: "Rows that were kept long enough: removed, or emptied of what was to go.",
		}, []string{"table"}),
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "last_success_timestamp_seconds", Help: "When this process last found a task done, or in another one's hands.",
		}, []string{"task"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "failures_total", Help: "Rounds in which a task failed.",
		}, []string{"task"}),
	}
	if reg == nil {
		return m, nil
	}
	var failed error
	for _, c := range []prometheus.Collector{m.removed, m.success, m.failures} {
		failed = errors.Join(failed, reg.Register(c))
	}
	return m, failed
}
