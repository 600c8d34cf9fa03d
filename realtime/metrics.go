package realtime

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

type metrics struct {
	sockets   *prometheus.GaugeVec
	refused   *prometheus.CounterVec
	frames    [kinds]prometheus.Counter // by kind: no look-up a frame
	closed    *prometheus.CounterVec
	overflow  prometheus.Counter
	repeats   prometheus.Counter
	fills     *prometheus.CounterVec
	rewinds   prometheus.Counter
	reads     prometheus.Counter
	gathered  prometheus.Histogram
	replays   *prometheus.CounterVec
	readTime  *prometheus.HistogramVec
	resyncs   *prometheus.CounterVec
	delivered map[string]prometheus.Observer // by via
	acks      prometheus.Counter
	revoked   *prometheus.CounterVec
	breaker   prometheus.Gauge

	announced     *prometheus.CounterVec
	expired       prometheus.Counter
	presenceReads prometheus.Counter
}

func opts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: "bondmate", Subsystem: "realtime", Name: name, Help: help}
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
		reg.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, label string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "bondmate", Subsystem: "realtime", Name: name, Help: help, Buckets: buckets,
		}, []string{label})
		reg.MustRegister(h)
		return h
	}
	frames := counters("frames_total", "Frames written, by kind.", "kind")
	delivered := histogram("applied_to_delivered_seconds",
		"From an event's appliedAt to its frame being written, by where the event was read; replays at hello are left out.",
		prometheus.ExponentialBuckets(0.0005, 2, 16), "via")
	m := &metrics{
		sockets: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("sockets",
			"Open sockets by state: pending until ready, open, closing.")), []string{"state"}),
		refused:  counters("refused_total", "Requests answered without an upgrade, by code.", "code"),
		closed:   counters("closed_total", "Sockets that ended, by close code and who closed.", "code", "by"),
		overflow: counter("queue_overflow_total", "Sockets closed since their queue was full."),
		repeats:  counter("repeats_total", "Events from the topic that a socket had already."),
		fills:    counters("fills_total", "Times a socket fell back to its inbox, by cause.", "cause"),
		rewinds:  counter("rewinds_total", "Times queued events waited too long and were read again."),
		reads: counter("inbox_reads_total",
			"Times a socket asked the primary for its place, and for what comes next unless the window had that."),
		gathered: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "bondmate", Subsystem: "realtime", Name: "inbox_read_sockets",
			Help: "Sockets that one statement answered.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		replays: counters("replays_total", "Reads that brought a socket events, by where those were read: window, inbox.", "via"),
		readTime: histogram("inbox_read_seconds", "Time of one statement that reads inboxes, by outcome.",
			prometheus.ExponentialBuckets(0.0005, 2, 14), "outcome"),
		resyncs:   counters("resyncs_total", "Clients told to read their state again, by reason.", "reason"),
		delivered: map[string]prometheus.Observer{},
		acks:      counter("acks_flushed_total", "Sessions whose acknowledgement was written."),
		announced: counters("presence_announced_total",
			"Records for the presence topic, by what became of them: ok, failed, dropped for want of room.", "result"),
		expired:       counter("presence_expired_total", "Users taken to be offline since their instance was not heard of."),
		presenceReads: counter("presence_reads_total", "Look-ups of who may see whom."),
		revoked:       counters("sessions_revoked_total", "Sessions with sockets that had ended, by who said so first: topic, database.", "by"),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts(opts("breaker_state",
			"The breaker around inbox reads: 0 closed, 1 half-open, 2 open."))),
	}
	for k := range m.frames {
		m.frames[k] = frames.WithLabelValues(kind(k).String())
	}
	for _, via := range []string{viaTopic, viaWindow, viaInbox} {
		m.delivered[via] = delivered.WithLabelValues(via)
	}
	reg.MustRegister(m.sockets, m.breaker, m.gathered)
	return m
}

// watch registers the gauges of the window.
func (w *window) watch(reg prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts(name, help)), func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return value()
		}))
	}
	gauge("window_bytes", "Memory of the events that are kept to replay.", func() float64 { return float64(w.bytes) })
	gauge("window_events", "Events that are kept to replay.", func() float64 { return float64(w.next - w.first) })
}

func (m *metrics) breakerChanged(_ string, _, to gobreaker.State) { m.breaker.Set(float64(to)) }

// closeLabel keeps the label's values few, whatever codes clients send.
func closeLabel(code int) string {
	switch code {
	case 0:
		return "none"
	case 1000, 1001, 1002, 1006, 1008, 1009, 1012,
		CloseUnauthenticated, CloseTokenExpired, CloseSessionRevoked, CloseTooSlow, CloseTooManySockets:
		return strconv.Itoa(code)
	default:
		return "other"
	}
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
