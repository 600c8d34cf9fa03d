// Package contract is what crosses a process boundary through Kafka: the topics, the
// envelope of every record (CloudEvents 1.0 in Kafka binary mode), the JSON Schemas of
// commands and events, and the function from key to partition.
//
// The topics below are the edges between the roles: read them to see who talks to whom.
// Edges has the same as a table, from which the rights on the brokers follow.
// What is here only grows. The golden records under testdata are never changed, and a
// test proves that today's code reads every one of them.
package contract

import "fmt"

// DefaultPartitions is the partition count of each topic
// unless configured. It divides evenly among 2, 3, 4, 6 and 12 consumers.
const DefaultPartitions = 12

// DefaultPrefix is the first part of every topic's name unless configured.
const DefaultPrefix = "bondmate"

// Topics holds the names of the topics of one installation. Several installations share
// a cluster by using different prefixes.
type Topics struct {
	// Commands: written by ingest, by the processor's relay (follow-ups) and by operators (dead
	// letters again), read by the processor. Key: pair. In order per pair. LogAppendTime. Kept
	// 7 days.
	Commands string
	// Events: written by the processor's relay, read by realtime, the notifier, ingest
	// (waiting calls) and analysts. Key: pair. In order per pair, at least once: readers
	// drop repeats by id or by (epoch, partition, seq). Kept 30 days.
	Events string
	// Couples: written by the processor's relay, read by analysts. Key: pair, on the partition
	// of the pair's events. The latest record of a key is what its latest partnership is;
	// version rises. Compacted; no value when an account of the two was erased.
	Couples string
	// Users: written by the processor's relay, read by analysts. Key: user id. As Couples, of
	// users, and pseudonymous. Compacted; no value when the account was erased.
	Users string
	// Pushes: written by the notifier, read by analysts. Key: user id. How each delivery of a
	// push ended, at least once: readers drop repeats by id, and of one delivery the latest
	// counts. Kept 30 days.
	Pushes string
	// Control: written by ingest, and by operators' commands where they know the brokers, read by
	// every instance of realtime and of ingest. Key: user id. Which sessions have ended, so that
	// sockets close at once; whoever misses one finds it in the database. Kept 1 day.
	Control string
	// Presence: written by every instance of realtime, read by all of them. Key: user id. Who has
	// a socket open where, of those who share it: said when it changes and again every 10 s, so
	// that an instance which died is soon not believed any more. Compacted, and kept 1 hour.
	Presence string
	// DeadLetter: written by the processor and the notifier, read by operators. Key: as the
	// source record's. Kept 30 days.
	DeadLetter string
}

// NewTopics returns the topic names for a prefix.
func NewTopics(prefix string) Topics {
	name := func(s string) string { return fmt.Sprintf("%s.%s.v1", prefix, s) }
	return Topics{
		Commands: name("commands"), Events: name("events"), Couples: name("couples"), Users: name("users"),
		Pushes: name("pushes"), Control: name("control"), Presence: name("presence"), DeadLetter: name("deadletter"),
	}
}

// Spec says how a topic must be set up.
type Spec struct {
	Name       string
	Partitions int
	Configs    map[string]string
}

// Specs returns the topics to create, with the configuration that the guarantees need.
// Production adds replication 3 and min.insync.replicas 2 (see deploy and docs).
func (t Topics) Specs(partitions int) []Spec {
	const hour = 60 * 60 * 1000
	const day = 24 * hour
	kept := func(days int) string { return fmt.Sprint(days * day) }
	// A reader that follows must have seen a tombstone before it goes. Segments of a day: what
	// is in the one being written is never compacted, and an erased user's should go soon.
	compacted := func() map[string]string {
		return map[string]string{"cleanup.policy": "compact", "delete.retention.ms": kept(7), "segment.ms": kept(1)}
	}
	return []Spec{
		{t.Commands, partitions, map[string]string{
			"cleanup.policy": "delete", "retention.ms": kept(7), "retention.bytes": "-1",
			// The broker's clock, not the producer's: the stale rule compares it with acceptedAt.
			"message.timestamp.type": "LogAppendTime",
		}},
		{t.Events, partitions, map[string]string{"cleanup.policy": "delete", "retention.ms": kept(30)}},
		{t.Couples, partitions, compacted()},
		{t.Users, partitions, compacted()},
		{t.Pushes, partitions, map[string]string{"cleanup.policy": "delete", "retention.ms": kept(30)}},
		{t.Control, partitions, map[string]string{"cleanup.policy": "delete", "retention.ms": kept(1)}},
		{t.Presence, partitions, map[string]string{
			"cleanup.policy": "compact,delete", "retention.ms": fmt.Sprint(hour), "segment.ms": fmt.Sprint(hour / 6),
		}},
		{t.DeadLetter, partitions, map[string]string{"cleanup.policy": "delete", "retention.ms": kept(30)}},
	}
}
