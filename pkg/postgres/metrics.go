package postgres

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Collector reports a pool's figures when asked.
type Collector struct {
	pool *pgxpool.Pool

	connections, limit, acquired, waited, waitTime, canceled *prometheus.Desc
}

// NewCollector returns the figures of a pool.
func NewCollector(pool *pgxpool.Pool) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bondmate_postgres_pool_"+name, help, labels, nil)
	}
	return &Collector{
		pool:        pool,
		connections: desc("connections", "Connections by state: idle, in_use or opening.", "state"),
		limit:       desc("limit", "Most connections that the pool may hold."),
		acquired:    desc("acquired_total", "Connections handed out."),
		waited:      desc("waited_total", "Connections handed out after a wait, because none was idle."),
		waitTime:    desc("wait_seconds_total", "Time spent waiting for connections."),
		canceled:    desc("canceled_total", "Waits given up by the caller."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.connections, c.limit, c.acquired, c.waited, c.waitTime, c.canceled} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	stat := c.pool.Stat()
	gauge := func(desc *prometheus.Desc, value int32, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
	}
	counter := func(desc *prometheus.Desc, value float64) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value)
	}
	gauge(c.connections, stat.IdleConns(), "idle")
	gauge(c.connections, stat.AcquiredConns(), "in_use")
	gauge(c.connections, stat.ConstructingConns(), "opening")
	gauge(c.limit, stat.MaxConns())
	counter(c.acquired, float64(stat.AcquireCount()))
	counter(c.waited, float64(stat.EmptyAcquireCount()))
	counter(c.waitTime, stat.EmptyAcquireWaitTime().Seconds())
	counter(c.canceled, float64(stat.CanceledAcquireCount()))
}
