package contract

import (
	"encoding/json"
	"fmt"
)

// structuredJSON is a record in CloudEvents' JSON format: the attributes that are headers
// in Kafka's binary mode, and the same data.
type structuredJSON struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Time            string          `json:"time"`
	Subject         string          `json:"subject"`
	DataContentType string          `json:"datacontenttype"`
	Pair            string          `json:"pair,omitempty"`
	CommandID       string          `json:"commandid,omitempty"`
	Partition       int             `json:"partition"`
	Seq             string          `json:"seq"` // a text: an integer attribute has 32 bits
	Epoch           string          `json:"epoch"`
	Traceparent     string          `json:"traceparent,omitempty"`
	Data            json.RawMessage `json:"data"`
}

// Structured returns a record of the events topic as one JSON object, without the newline:
// for files, where there are no headers. The partition, which a reader needs to drop
// repeats by (epoch, partition, seq), is one more attribute.
func Structured(rec Record) ([]byte, error) {
	line, err := json.Marshal(structuredJSON{
		SpecVersion: rec.Header("ce_specversion"), ID: rec.Header("ce_id"), Source: rec.Header("ce_source"), Type: rec.Header("ce_type"),
		Time: rec.Header("ce_time"), Subject: rec.Header("ce_subject"), DataContentType: rec.Header("content-type"),
		Pair: rec.Header("ce_pair"), CommandID: rec.Header("ce_commandid"), Partition: rec.Partition, Seq: rec.Header("ce_seq"),
		Epoch: rec.Header("ce_epoch"), Traceparent: rec.Header("traceparent"), Data: rec.Value,
	})
	if err != nil {
		return nil, fmt.Errorf("encode record %s: %w", rec.Header("ce_id"), err)
	}
	return line, nil
}
