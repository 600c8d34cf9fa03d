package notifier

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/bondmate/backend/pkg/partner"
)

type metrics struct {
	events       *prometheus.CounterVec
	age          prometheus.Histogram
	lag          *prometheus.GaugeVec
	enqueued     prometheus.Counter
	outcomes     *prometheus.CounterVec
	attempts     *prometheus.CounterVec
	call         prometheus.Histogram
	dueToSent    prometheus.Histogram
	delivery     prometheus.Histogram
	breaker      prometheus.Gauge
	transitions  *prometheus.CounterVec
	backlog      prometheus.Gauge
	held         prometheus.Gauge
	lostClaims   prometheus.Counter
	skipped      prometheus.Counter
	replaced     prometheus.Counter
	putOff       prometheus.Counter
	quotaWaits   prometheus.Counter
	told         *prometheus.CounterVec
	untold       prometheus.Gauge
	tellFailures *prometheus.CounterVec
	tellBreaker  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const ns, sub = "bondmate", "notifier"
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}
	}
	// 5 ms to 84 minutes: a push waits milliseconds for a worker, or an hour for a provider.
	seconds := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.005, 2, 21),
		}
	}
	m := &metrics{
		events:       prometheus.NewCounterVec(counter("events_total", "Events read, by what became of them."), []string{"fate"}),
		age:          prometheus.NewHistogram(seconds("event_age_seconds", "From the event's commit to its deliveries being due rows.")),
		lag:          prometheus.NewGaugeVec(gauge("lag_records", "Records on the events topic that are not yet read."), []string{"partition"}),
		enqueued:     prometheus.NewCounter(counter("deliveries_total", "Deliveries made due; an event read again counts none.")),
		outcomes:     prometheus.NewCounterVec(counter("push_outcomes_total", "Deliveries settled, by outcome and event type."), []string{"outcome", "type"}),
		attempts:     prometheus.NewCounterVec(counter("push_attempts_total", "Claims worked on, by result: sent or the verdict."), []string{"result"}),
		call:         prometheus.NewHistogram(seconds("push_call_seconds", "Time of one call to the provider.")),
		dueToSent:    prometheus.NewHistogram(seconds("push_due_to_sent_seconds", "From due to accepted by the provider.")),
		delivery:     prometheus.NewHistogram(seconds("push_applied_to_delivered_seconds", "From the event's commit to accepted by the provider, grace and quiet hours included.")),
		breaker:      prometheus.NewGauge(gauge("breaker_state", "The provider's breaker: 0 closed, 1 half open, 2 open.")),
		transitions:  prometheus.NewCounterVec(counter("breaker_transitions_total", "Changes of the breaker's state, by the new one."), []string{"to"}),
		backlog:      prometheus.NewGauge(gauge("push_backlog", "Deliveries that are due and not taken, counted up to 10000.")),
		held:         prometheus.NewGauge(gauge("push_held", "Deliveries that this process has claimed and not settled.")),
		lostClaims:   prometheus.NewCounter(counter("lost_claims_total", "Results that came after their lease and changed nothing.")),
		replaced:     prometheus.NewCounter(counter("pushes_replaced_total", "Pushes replaced on the phone, silently, since an ending took them back.")),
		putOff:       prometheus.NewCounter(counter("pushes_put_off_total", "Times that a push was put off until its user's quiet hours end.")),
		told:         prometheus.NewCounterVec(counter("outcomes_told_total", "Outcomes written to the pushes topic: at_once, before they were settled, or later, by who looks for what was not."), []string{"when"}),
		untold:       prometheus.NewGauge(gauge("outcomes_untold", "Outcomes that the pushes topic has not been told, of all notifiers, counted up to 10000.")),
		tellFailures: prometheus.NewCounterVec(counter("outcome_failures_total", "Writes to the pushes topic by why they came to nothing: failed, refused (the topic or the right to it is missing), malformed (one row, given up)."), []string{"reason"}),
		tellBreaker:  prometheus.NewGauge(gauge("outcomes_breaker_state", "The breaker before the pushes topic: 0 closed, 1 half open, 2 open. Pushes go on in each.")),
		quotaWaits:   prometheus.NewCounter(counter("push_quota_waits_total", "Calls that waited for the quota of calls a minute.")),
		skipped:      prometheus.NewCounter(counter("skipped_ranges_total", "Times that the topic no longer held the offset to go on from.")),
	}
	reg.MustRegister(m.events, m.age, m.lag, m.enqueued, m.outcomes, m.attempts, m.call, m.dueToSent, m.delivery, m.breaker,
		m.transitions, m.backlog, m.held, m.lostClaims, m.skipped, m.replaced, m.putOff, m.told, m.untold, m.tellFailures, m.tellBreaker, m.quotaWaits)
	return m
}

func (m *metrics) settled(outcome Outcome, kind partner.EventType) {
	m.outcomes.WithLabelValues(string(outcome), kind.String()).Inc()
}

func (m *metrics) delivered(job claimed, now time.Time) {
	m.dueToSent.Observe(now.Sub(job.DueAt).Seconds())
	m.delivery.Observe(now.Sub(job.Payload.AppliedAt).Seconds())
}

func (m *metrics) breakerState(to gobreaker.State) {
	m.breaker.Set(float64(to))
	m.transitions.WithLabelValues(to.String()).Inc()
}
