package contract

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// The sources that CloudEvents name as ce_source.
const (
	sourceIngest    = "/bondmate/ingest"
	sourceRealtime  = "/bondmate/realtime"
	sourceProcessor = "/bondmate/processor"
	sourceNotifier  = "/bondmate/notifier"
)

// attributes are what becomes the CloudEvents headers of a record.
type attributes struct {
	id          string
	kind        string
	source      string
	time        string
	subject     string // empty: the pair
	pair        string // empty: none
	commandID   string // empty: none
	seq         int64  // zero: none
	epoch       string // empty: none
	traceparent string // empty: none
	empty       bool   // the record has no value
}

// headers returns the CloudEvents 1.0 attributes in Kafka's binary mode.
func (a attributes) headers() []Header {
	hs := make([]Header, 0, 12)
	add := func(key, value string) {
		if value != "" {
			hs = append(hs, Header{Key: key, Value: []byte(value)})
		}
	}
	if !a.empty {
		add("content-type", "application/json")
	}
	add("ce_specversion", "1.0")
	add("ce_id", a.id)
	add("ce_type", a.kind)
	add("ce_source", a.source)
	add("ce_time", a.time)
	add("ce_subject", cmp.Or(a.subject, a.pair))
	add("ce_pair", a.pair)
	add("ce_commandid", a.commandID)
	if a.seq != 0 {
		add("ce_seq", strconv.FormatInt(a.seq, 10))
	}
	add("ce_epoch", a.epoch)
	add("traceparent", a.traceparent)
	return hs
}

// malformed makes an error that names the fault but never repeats the record's content:
// the text of it goes into the dead-letter topic, where no user's words may go.
func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// parseID reads a UUID in its one canonical form. uuid.Parse alone takes braces, URNs and
// upper case, and then two texts would be one id.
func parseID(field, s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 || id.String() != s || id == uuid.Nil {
		return uuid.Nil, malformed(field + " is not a UUID in canonical form")
	}
	return id, nil
}

func parseOptionalID(field, s string) (uuid.UUID, error) {
	if s == "" {
		return uuid.Nil, nil
	}
	return parseID(field, s)
}

func parsePair(s string) (partner.Pair, error) {
	pair, err := partner.ParsePair(s)
	if err != nil || pair.Low == uuid.Nil {
		return partner.Pair{}, malformed("pair is not two UUIDs in canonical form and order")
	}
	return pair, nil
}

// parseSeq reads a positive number from a header.
func parseSeq(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, malformed("ce_seq is not a positive number")
	}
	return n, nil
}

func formatID(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}

// Instant returns t as the contract and the database hold it: UTC in whole microseconds.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func formatTime(t time.Time) string { return Instant(t).Format(time.RFC3339Nano) }

func parseTime(field, s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, malformed(field + " is not an RFC 3339 time")
	}
	return Instant(t), nil
}

// checkRecord compares the record's own key and headers with what its data says. A record
// under another key lies in another pair's order, and a reader by headers would see
// another record than a reader by data. Headers may be missing: some sinks drop them.
func checkRecord(rec Record, id, kind, pair string) error {
	if string(rec.Key) != pair {
		return malformed("the record's key is not its pair")
	}
	if h := rec.Header("ce_id"); h != "" && h != id {
		return malformed("ce_id is not the id in the data")
	}
	if h := rec.Header("ce_type"); h != "" && h != kind {
		return malformed("ce_type is not the type in the data")
	}
	return nil
}

// unmarshal is json.Unmarshal with an error that does not quote the input.
func unmarshal(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return malformed("the value is not a JSON object of the fields and types expected")
	}
	return nil
}
