// Package appendtime teaches kfake message.timestamp.type=LogAppendTime, which it accepts
// as a topic's configuration and ignores. With Install, batches for the topics concerned
// get the time of their arrival in place of the producer's, so that ListOffsets by time
// finds what was appended when.
//
// kfake does have a LogAppendTime of its own, by a bit in the producer's batch, which
// Apache Kafka refuses; it then stores the batch with a checksum that no longer fits.
package appendtime

import (
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	attributeCompression = 0x0007
	crcStart             = 21 // where the part of a batch begins that its checksum covers
)

// Install makes the cluster stamp what is appended to the topics for which stamped is
// true. It is called on the cluster's goroutine, so it must not call the cluster.
func Install(cluster *kfake.Cluster, stamped func(topic string) bool) {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		now := time.Now()
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			if !stamped(t.Topic) {
				continue
			}
			for i := range t.Partitions {
				t.Partitions[i].Records = stamp(t.Partitions[i].Records, now, castagnoli)
			}
		}
		return nil, nil, false
	})
}

// stamp returns the batch with the present time, and untouched when it is not sound: the
// broker then refuses it.
func stamp(raw []byte, now time.Time, castagnoli *crc32.Table) []byte {
	var b kmsg.RecordBatch
	if err := b.ReadFrom(raw); err != nil || len(raw) < crcStart || b.Magic != 2 ||
		b.CRC != int32(crc32.Checksum(raw[crcStart:], castagnoli)) { // #nosec G115 -- the same bits
		return raw
	}
	records, err := kfake.BatchRecords(b)
	if err != nil || len(records) != int(b.NumRecords) {
		return raw
	}
	b.Attributes &^= attributeCompression
	b.FirstTimestamp = now.UnixMilli()
	b.MaxTimestamp = b.FirstTimestamp
	b.Records = b.Records[:0:0]
	for _, r := range records {
		r.TimestampDelta64, r.TimestampDelta, r.Length = 0, 0, 0
		r.Length = int32(len(r.AppendTo(nil)) - 1) // #nosec G115 -- a record is smaller; less the one byte of a zero length
		b.Records = r.AppendTo(b.Records)
	}
	out := b.AppendTo(nil)
	b.Length = int32(len(out) - 12) // #nosec G115 -- as above; less the offset and the length itself
	out = b.AppendTo(out[:0])
	b.CRC = int32(crc32.Checksum(out[crcStart:], castagnoli)) // #nosec G115 -- the same bits
	return b.AppendTo(out[:0])
}
