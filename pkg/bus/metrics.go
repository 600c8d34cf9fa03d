package bus

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// register registers a collector, or returns the one that another part of the process
// registered before under the same name: `bondmate all` runs several producers and tails
// on one registry. A nil registerer leaves the collector unregistered.
func register[C prometheus.Collector](reg prometheus.Registerer, collector C) C {
	if reg == nil {
		return collector
	}
	err := reg.Register(collector)
	if before, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return before.ExistingCollector.(C)
	}
	if err != nil {
		panic(err) // a name or help that contradicts another collector: a defect in the program
	}
	return collector
}

// secondsBuckets spans 0.5 ms to 8 s by doubling.
func secondsBuckets() []float64 { return prometheus.ExponentialBuckets(0.0005, 2, 15) }

type producerMetrics struct {
	seconds prometheus.Histogram
	batch   prometheus.Histogram
	errors  *prometheus.CounterVec
}

func newProducerMetrics(reg prometheus.Registerer) producerMetrics {
	return producerMetrics{
		seconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bondmate_kafka_produce_seconds", Help: "Time of one produce request until all in-sync replicas have it.",
			Buckets: secondsBuckets(),
		})),
		batch: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bondmate_kafka_produce_batch_records", Help: "Records in one group commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		})),
		errors: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bondmate_kafka_produce_errors_total",
			Help: "Failed attempts and refusals by kind: retried, rejected, unknown, not_sent, buffer_full.",
		}, []string{"kind"})),
	}
}

// readerMetrics is how far readers are behind. A partition read by two parts of one
// process shares its figure by the reader's name.
type readerMetrics struct {
	lag *prometheus.GaugeVec
}

func newReaderMetrics(reg prometheus.Registerer) readerMetrics {
	return readerMetrics{lag: register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bondmate_kafka_reader_lag_records", Help: "Records between a reader's position and the partition's end, as of the last fetch.",
	}, []string{"reader", "topic", "partition"}))}
}
