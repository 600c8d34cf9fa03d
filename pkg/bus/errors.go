package bus

import (
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
)

// ErrNotSent says that a record was surely not written. Any other error of a write
// leaves that open.
var ErrNotSent = errors.New("not sent")

// Errors of a Producer that has no room or no time left; the record was not sent.
var (
	ErrBufferFull = fmt.Errorf("producer's buffer is full: %w", ErrNotSent)
	ErrClosed     = fmt.Errorf("producer is closed: %w", ErrNotSent)
)

// WriteError lists the records of a write that failed, by their index.
//
// errors.Is finds an error of any record, but for ErrNotSent, which it finds only if
// nothing of the write was or may have been written.
type WriteError struct {
	Failed map[int]error
	total  int
}

// Error gives the number of failures and one of the causes.
func (e *WriteError) Error() string {
	first := -1
	for i := range e.Failed {
		if first < 0 || i < first {
			first = i
		}
	}
	return fmt.Sprintf("write %d of %d records: %v", len(e.Failed), e.total, e.Failed[first])
}

// Is implements errors.Is as described at the type.
func (e *WriteError) Is(target error) bool {
	if target == ErrNotSent {
		for _, err := range e.Failed {
			if !errors.Is(err, ErrNotSent) {
				return false
			}
		}
		return len(e.Failed) == e.total
	}
	for _, err := range e.Failed {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// As implements errors.As for the records' errors.
func (e *WriteError) As(target any) bool {
	for _, err := range e.Failed {
		if errors.As(err, target) {
			return true
		}
	}
	return false
}

// OutOfRangeError says that a partition does not hold the offset to read from: retention
// removed it, or the topic was created again and is shorter.
type OutOfRangeError struct {
	Topic      string
	Partition  int
	Wanted     int64
	Start, End int64 // the log's first offset and the one after its last
}

// Error says what was wanted and what there is.
func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("read %s/%d from offset %d: the log holds %d to %d",
		e.Topic, e.Partition, e.Wanted, e.Start, e.End)
}

// recordError is the failure of one record, classified.
type recordError struct {
	err       error
	notSent   bool
	permanent bool // a repeat fails the same way
}

func (e *recordError) Error() string { return e.err.Error() }

func (e *recordError) Unwrap() error { return e.err }

func (e *recordError) Is(target error) bool { return target == ErrNotSent && e.notSent }

// Retriable says whether the same call may succeed later without anyone changing
// anything: it is false for what the broker rejects for its content or for missing rights.
func Retriable(err error) bool {
	if e, ok := errors.AsType[*recordError](err); ok {
		return !e.permanent
	}
	if e, ok := errors.AsType[*SecurityError](err); ok {
		return !e.final()
	}
	if code, ok := errors.AsType[kafka.Error](err); ok {
		return !permanent(code)
	}
	return true
}

// Unseen says whether a topic does not exist, or is not shown since this login has no right
// to it: the two look the same. Both may be mended while the call is tried again, by somebody.
func Unseen(err error) bool { return errors.Is(err, kafka.UnknownTopicOrPartition) }

// permanent lists the broker's answers that a repeat does not change. All of them are
// given before anything is appended.
func permanent(code kafka.Error) bool {
	switch code {
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidTopic, kafka.InvalidRequiredAcks,
		kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.GroupAuthorizationFailed,
		kafka.InvalidTimestamp, kafka.UnsupportedVersion, kafka.UnsupportedForMessageFormat,
		kafka.UnsupportedSASLMechanism, kafka.SASLAuthenticationFailed, kafka.SecurityDisabled, kafka.PolicyViolation,
		kafka.InvalidRecord, kafka.InvalidConfiguration, kafka.InvalidPartitionNumber, kafka.InvalidReplicationFactor:
		return true
	default:
		return false
	}
}

// answerError classifies an error code in a produce response. NotLeaderForPartition is
// not among the sure ones: a leader that is deposed while it waits for its followers
// answers so after the append.
func answerError(code kafka.Error) *recordError {
	p := permanent(code)
	return &recordError{err: code, permanent: p, notSent: p || code == kafka.NotEnoughReplicas || code == kafka.InvalidMessage}
}

// notSent marks an error that happened before anything left the process.
func notSent(err error) *recordError {
	e := &recordError{err: err, notSent: true}
	if inner, ok := errors.AsType[*recordError](err); ok {
		e.permanent = inner.permanent
	}
	if inner, ok := errors.AsType[*SecurityError](err); ok {
		e.permanent = inner.final()
	}
	return e
}

// unsure takes back an error's claim that the record was not sent, which holds for one
// attempt among several.
func unsure(err error) error { return errors.New(err.Error()) }
