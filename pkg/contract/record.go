package contract

import "time"

// Record is one Kafka record as this project reads and writes it.
type Record struct {
	Topic     string
	Partition int
	Offset    int64     // set on records that were read
	Time      time.Time // the producer's time: kafka-go does not expose the broker's
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Header returns the value of the first header with the key, or "".
func (r Record) Header(key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}
