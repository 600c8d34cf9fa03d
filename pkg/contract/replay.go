package contract

import (
	"fmt"
	"strconv"
	"strings"
)

// ReplayOf is the header of a command that an operator has written to the topic a second
// time, because nothing could read it at first: the place of the first, as
// "partition/offset". It was in the log in time if the first was.
const ReplayOf = "ce_replayof"

// ReplayHeader returns the header of a record that repeats the one at this place.
func ReplayHeader(partition int, offset int64) Header {
	return Header{Key: ReplayOf, Value: fmt.Appendf(nil, "%d/%d", partition, offset)}
}

// ReplayedFrom returns the place that the record repeats. ok is false when it is no replay.
func ReplayedFrom(rec Record) (partition int, offset int64, ok bool) {
	first, second, found := strings.Cut(rec.Header(ReplayOf), "/")
	if !found {
		return 0, 0, false
	}
	p, err := strconv.ParseUint(first, 10, 15)
	if err != nil {
		return 0, 0, false
	}
	o, err := strconv.ParseUint(second, 10, 63)
	if err != nil {
		return 0, 0, false
	}
	return int(p), int64(o), true
}
