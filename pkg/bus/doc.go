// Package bus speaks Kafka for the roles; it is the only importer of kafka-go.
//
// A Client holds the connections. All of them, also a group's, come from one place that
// encrypts them and logs in as Config.Security says. What the roles build on:
//
//   - Write and Producer append records with acks=all to partitions that the caller
//     names. A Producer commits in groups: what gathered while the previous write was
//     under way goes out as one produce request per leader, without a timer. It has at
//     most one write under way per partition, so the records of a partition are appended
//     in the order of the Produce calls, retries included.
//   - RunGroup hands out whole partitions of a topic, a generation at a time.
//   - PartitionReader, Tail, EventTail and ControlTail read partitions in order from offsets that the
//     caller names or, for tails, from the ends seen at the start. An offset that the
//     broker no longer or not yet has is an *OutOfRangeError, never a silent skip.
//   - Offsets, FirstOffsetAfter, PlanTopics, EnsureTopics ask and set up. Rights are what each
//     party needs for all of this, PlanACLs and EnsureACLs compare and grant them.
//
// # What an error says about the record
//
// A write that failed may have happened: the answer can be lost after the append, and a
// leader that lost its partition while it waited for its followers answers NotLeader
// although the record may survive. Only errors.Is(err, ErrNotSent) says that the record
// is surely not in the log. Everything else is unknown, so a repeat may store the record
// twice: readers drop repeats by id or by high-water mark. kafka-go has no idempotent
// producer.
//
// # Why not kafka-go's Reader
//
// The readers here send fetch requests of their own over the Transport. kafka-go's
// Reader{Partition} moves a position below the log's start to the start without a word,
// with OffsetOutOfRangeError too, waits for ever at a position beyond the end (a topic
// that was deleted and created again), and holds up its Close for MaxWait; and a tail
// over N partitions would be N connections with a poll each, where one request can ask
// a leader for all of them.
package bus
