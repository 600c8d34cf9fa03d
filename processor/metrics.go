package processor

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	batch     prometheus.Histogram
	tx        prometheus.Histogram
	apply     prometheus.Histogram
	publish   prometheus.Histogram
	commands  *prometheus.CounterVec // type, outcome: applied, duplicate, or the rejection's code
	events    prometheus.Counter
	fenced    prometheus.Counter
	retries   *prometheus.CounterVec // reason
	restarts  prometheus.Counter
	lag       *prometheus.GaugeVec // partition
	oldest    *prometheus.GaugeVec // partition
	backlog   *prometheus.GaugeVec // partition
	parked    *prometheus.CounterVec
	dead      prometheus.Counter
	timers    *prometheus.CounterVec // outcome: applied, published, nothing_due
	again     prometheus.Counter
	looks     prometheus.Counter
	published *prometheus.CounterVec // topic
	stale     prometheus.Counter
	panics    prometheus.Counter
	actions   *prometheus.CounterVec // action, outcome
	waiting   *prometheus.GaugeVec   // partition
	pairs     *prometheus.GaugeVec   // partition
	parkedAge *prometheus.GaugeVec   // partition
	letters   *prometheus.GaugeVec   // partition
}

// latencies runs from half a millisecond to 8 s, and then to the time that a stop of
// Postgres or Kafka takes.
func latencies() []float64 {
	return append(prometheus.ExponentialBuckets(0.0005, 2, 15), 30, 120, 600)
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "bondmate", "processor"
	hist := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help, Buckets: buckets})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	counts := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	gauges := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, []string{"partition"})
	}
	m := &metrics{
		batch:     hist("batch_commands", "Records applied in one transaction.", prometheus.ExponentialBuckets(1, 2, 11)),
		tx:        hist("transaction_seconds", "From begin to the answer to commit.", latencies()),
		apply:     hist("apply_seconds", "From accepted by ingest to applied.", latencies()),
		publish:   hist("publish_seconds", "From applied to acknowledged by the topic.", latencies()),
		commands:  counts("commands_total", "Commands by type and by outcome: applied, duplicate, or the code of the rejection.", "type", "outcome"),
		events:    count("events_total", "Events appended."),
		fenced:    count("fenced_total", "Partitions lost to another owner while this process was at work on them."),
		retries:   counts("retries_total", "Transactions and writes tried again, by reason.", "reason"),
		restarts:  count("restarts_total", "Transactions started again because a decision concerned more than was locked and loaded."),
		lag:       gauges("lag_records", "Records on the commands topic that are not yet applied."),
		oldest:    gauges("oldest_age_seconds", "Age of the oldest command of the last batch when it was read; zero when idle."),
		backlog:   gauges("relay_backlog_events", "Committed rows that are not yet on their topic."),
		parked:    counts("parked_total", "Commands parked, by reason.", "reason"),
		dead:      count("dead_letters_total", "Records that could not be decoded."),
		timers:    counts("timers_total", "Due timers by outcome: applied, published, or nothing_due when a command had come first.", "outcome"),
		again:     count("published_again_total", "Keys of compacted topics to be written again, after a takeover or a write of unknown outcome."),
		looks:     count("timer_looks_total", "Looks for due timers, by all workers."),
		published: counts("published_total", "Records written, by topic.", "topic"),
		stale:     count("stale_checks_total", "Questions to the broker about when a record was appended."),
		panics:    count("panics_total", "Panics of the rules; the command parks its pair."),
		actions:   counts("parked_actions_total", "Retries and drops of parked commands that were carried out, by outcome.", "action", "outcome"),
		waiting:   gauges("parked_commands", "Commands that are parked."),
		pairs:     gauges("parked_pairs", "Pairs that are parked."),
		parkedAge: gauges("parked_oldest_age_seconds", "For how long the oldest parked command has been parked; zero when none is."),
		letters:   gauges("dead_letters", "Dead letters of the commands topic whose bytes are kept."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.batch, m.tx, m.apply, m.publish, m.commands, m.events, m.fenced, m.retries, m.restarts,
		m.lag, m.oldest, m.backlog, m.parked, m.dead, m.timers, m.again, m.looks, m.published, m.stale,
		m.panics, m.actions, m.waiting, m.pairs, m.parkedAge, m.letters,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// forget drops the gauges of partitions that are another owner's from here on: kept, they
// would show a lag for ever that nobody has.
func (m *metrics) forget(parts []*partition) {
	for _, part := range parts {
		label := strconv.Itoa(part.id)
		for _, g := range []*prometheus.GaugeVec{m.lag, m.oldest, m.backlog, m.waiting, m.pairs, m.parkedAge, m.letters} {
			g.DeleteLabelValues(label)
		}
	}
}

// count takes the figures of a committed batch.
func (p *Processor) count(b *batch, done *changes) {
	m := p.metrics
	m.batch.Observe(float64(len(b.items)))
	m.events.Add(float64(len(done.rows)))
	for _, t := range done.tallies {
		switch t.kind {
		case tallyDead:
			m.dead.Inc()
		case tallyTimer:
			m.timers.WithLabelValues(t.outcome).Inc()
		case tallyAction:
			m.actions.WithLabelValues(t.action, t.outcome).Inc()
		case tallyParked:
			m.parked.WithLabelValues(t.outcome).Inc()
		default:
			m.commands.WithLabelValues(t.kind, t.outcome).Inc()
			if !t.acceptedAt.IsZero() {
				m.apply.Observe(b.now.Sub(t.acceptedAt).Seconds())
			}
		}
	}
}
