// Package bus is the only place that speaks Kafka.
package bus
