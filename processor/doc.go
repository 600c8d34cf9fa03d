// Package processor turns commands into state and events: it reads the commands topic,
// applies each command in a Postgres transaction and publishes what became true.
//
// Guarantee: a command takes effect exactly once and in the order of its pair (G1, G2),
// every committed event reaches its topic at least once and in order (G4), inboxes have
// no gaps (G5), and who lost a partition commits nothing more for it (G7).
//
// Why it holds. Progress lives in the row of processor_partitions, not in Kafka: the
// transaction that applies commands moves next_offset, so a command and the step past it
// are one. Whoever is assigned a partition raises the row's epoch, and each transaction
// locks the row and compares the epoch before it writes anything. Command ids are looked
// up under the lock of their issuer's stream, so a record that Kafka holds twice has one
// effect. Sequences of events and inboxes come from rows that the transaction holds
// locked. Events are rows first and records later: the relay publishes them in sequence
// and starts again from relayed_seq.
//
// Timers are rows that a decision sets and the partition's worker applies, in a transaction
// like that of commands but without a record: next_offset stays and the version rises.
// One fires only after everything that was accepted before its time has been applied
// (observe), so a late queue changes no outcome.
//
// Ownership. Run joins the consumer group and serves one generation at a time. A
// generation owns one pump goroutine a partition (Kafka to channel), a few workers and
// one relay for each worker, a watch and an observer for all. A worker owns its
// connection, its channel and the state of its partitions; nobody else touches them, save
// three atomics: what the relay has published, how far the worker came, and up to when
// timers may fire. When the generation ends, pumps stop first,
// then each worker after the transaction in hand, then its relay, which publishes what
// was committed, all within the drain deadline; last, relayed_seq is written.
package processor
