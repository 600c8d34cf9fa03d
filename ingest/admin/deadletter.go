package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

// DeadLetter is a record that nothing could read, without its bytes.
type DeadLetter struct {
	Topic      string
	Place      Place
	Error      string // of whoever set it aside
	CreatedAt  time.Time
	Key        string // quoted when it is no text
	Headers    []string
	Shape      Shape
	ReplayedAt time.Time // zero: never
	ReplayedBy string
}

// LetterRef names a dead letter by where its record lies.
type LetterRef struct {
	Topic string
	Place Place
}

func (r LetterRef) String() string {
	return fmt.Sprintf("%s/%d/%d", r.Topic, r.Place.Partition, r.Place.Offset)
}

// ID is that of the letter's record on the dead-letter topic.
func (r LetterRef) ID() uuid.UUID {
	return contract.DeadLetter{Topic: r.Topic, Partition: r.Place.Partition, Offset: r.Place.Offset}.ID()
}

// LetterID reads the id of a dead letter, or topic/partition/offset.
func LetterID(s string) (uuid.UUID, error) {
	if id, err := uuid.Parse(s); err == nil {
		return id, nil
	}
	ref, err := ParseLetterRef(s)
	if err != nil {
		return uuid.Nil, err
	}
	return ref.ID(), nil
}

// ParseLetterRef reads topic/partition/offset.
func ParseLetterRef(s string) (LetterRef, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 3 {
		partition, err := strconv.ParseUint(parts[1], 10, 15)
		offset, err2 := strconv.ParseUint(parts[2], 10, 63)
		if err == nil && err2 == nil && parts[0] != "" {
			return LetterRef{parts[0], Place{int(partition), int64(offset)}}, nil
		}
	}
	return LetterRef{}, fault.New(fault.Invalid, "invalid_request", "A dead letter is named by its topic/partition/offset.")
}

var errNoLetter = fault.New(fault.NotFound, "not_found", "There is no such dead letter: they are kept for 30 days.")

const letterColumns = `
SELECT topic, partition, log_offset, error, created_at, key, headers, value, replayed_at, COALESCE(replayed_by, '')
FROM dead_letters
`

const (
	deadLettersSQL = letterColumns + `ORDER BY created_at DESC, topic, partition, log_offset LIMIT $1`
	deadLetterSQL  = letterColumns + `WHERE topic = $1 AND partition = $2 AND log_offset = $3`
)

// letter is a row of dead_letters.
type letter struct {
	DeadLetter
	key, value []byte
	headers    []storedHeader
}

// storedHeader is one header of dead_letters.headers, as its writers put it there.
type storedHeader struct {
	Key   string `json:"key"`
	Text  string `json:"text,omitempty"`
	Bytes []byte `json:"bytes,omitempty"`
}

func (h storedHeader) value() []byte {
	if h.Bytes != nil {
		return h.Bytes
	}
	return []byte(h.Text)
}

func lettersIn(ctx context.Context, q querier, sql string, args ...any) ([]letter, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("load dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (l letter, err error) {
		var (
			headers  []byte
			replayed *time.Time
		)
		err = r.Scan(&l.Topic, &l.Place.Partition, &l.Place.Offset, &l.Error, &l.CreatedAt, &l.key, &headers, &l.value, &replayed, &l.ReplayedBy)
		if err != nil {
			return l, err
		}
		if err := json.Unmarshal(headers, &l.headers); err != nil {
			return l, fmt.Errorf("read headers: %w", err)
		}
		if replayed != nil {
			l.ReplayedAt = *replayed
		}
		l.Key = fmt.Sprintf("%d bytes", len(l.key))
		if pair, err := partner.ParsePair(string(l.key)); err == nil {
			l.Key = pair.String()
		}
		for _, h := range l.headers {
			l.Headers = append(l.Headers, fmt.Sprintf("%q: %d bytes", h.Key, len(h.value())))
		}
		l.Shape = shapeOf(l.key, l.value)
		if l.value == nil {
			l.Shape.Readable = "the bytes are gone: they are kept for 7 days"
		}
		return l, nil
	})
	if err != nil {
		return nil, fmt.Errorf("load dead letters: %w", err)
	}
	return letters, nil
}

// DeadLetters lists dead letters, the newest first.
func (s *Service) DeadLetters(ctx context.Context, actor Actor, limit int) (out []DeadLetter, err error) {
	if limit <= 0 || limit > listLimit {
		limit = listLimit
	}
	line := entry{actor: actor, action: permissions["listDeadLetters"].Action, severity: partner.SeverityInfo}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		letters, err := lettersIn(ctx, tx, deadLettersSQL, limit)
		out = make([]DeadLetter, 0, len(letters))
		for _, l := range letters {
			out = append(out, l.DeadLetter)
		}
		return err
	})
	return out, err
}

const letterPlacesSQL = `SELECT topic, partition, log_offset FROM dead_letters`

// findLetter looks for the place that an id was made of. There are as many to look at as
// records were poison in 7 days.
func findLetter(ctx context.Context, q querier, id uuid.UUID) (found LetterRef, err error) {
	rows, err := q.Query(ctx, letterPlacesSQL)
	if err != nil {
		return found, fmt.Errorf("look for dead letter %s: %w", id, err)
	}
	known := false
	var ref LetterRef
	_, err = pgx.ForEachRow(rows, []any{&ref.Topic, &ref.Place.Partition, &ref.Place.Offset}, func() error {
		if !known && ref.ID() == id {
			known, found = true, ref
		}
		return nil
	})
	if err != nil {
		return found, fmt.Errorf("look for dead letter %s: %w", id, err)
	}
	if !known {
		return found, errNoLetter
	}
	return found, nil
}

// onLetter does something with one dead letter and takes it down.
func (s *Service) onLetter(ctx context.Context, line entry, id uuid.UUID, do func(letter) error) error {
	line.subject = id
	return s.act(ctx, line, func(tx pgx.Tx, e *entry) error {
		ref, err := findLetter(ctx, tx, id)
		if err != nil {
			return err
		}
		e.metadata = map[string]string{"record": ref.String()}
		letters, err := lettersIn(ctx, tx, deadLetterSQL, ref.Topic, ref.Place.Partition, ref.Place.Offset)
		if err != nil {
			return err
		}
		if len(letters) == 0 {
			return errNoLetter
		}
		return do(letters[0])
	})
}

// DeadLetter returns one dead letter.
func (s *Service) DeadLetter(ctx context.Context, actor Actor, id uuid.UUID) (out DeadLetter, err error) {
	line := entry{actor: actor, action: permissions["showDeadLetter"].Action, severity: partner.SeverityInfo}
	err = s.onLetter(ctx, line, id, func(l letter) error {
		out = l.DeadLetter
		return nil
	})
	return out, err
}

// DeadLetterPayload returns the record's bytes, which may hold what people wrote: the line
// in the activity log says that somebody read it.
func (s *Service) DeadLetterPayload(ctx context.Context, actor Actor, id uuid.UUID) (value []byte, err error) {
	line := entry{actor: actor, action: permissions["readDeadLetterPayload"].Action, severity: partner.SeverityWarning}
	err = s.onLetter(ctx, line, id, func(l letter) error {
		value = l.value
		return nil
	})
	return value, err
}

// Replayer is where replayed commands go.
type Replayer struct {
	Topics     contract.Topics
	Partitions int
	// Publish returns once the record is acknowledged.
	Publish func(context.Context, contract.Record) error
}

const replayedSQL = `
UPDATE dead_letters SET replayed_at = $4, replayed_by = $5
WHERE topic = $1 AND partition = $2 AND log_offset = $3`

// Replay writes the bytes of a dead letter to the commands topic again, to the partition
// that its key belongs on: at least once, and the command's id sees to it that it takes
// effect once. It refuses what today's decoder cannot read either, unless forced, and what
// is no command: other topics still hold their records.
func (s *Service) Replay(ctx context.Context, actor Actor, order ReplayOrder, to Replayer) (partition int, err error) {
	line := entry{actor: actor, action: permissions["replayDeadLetter"].Action, severity: partner.SeverityNotice}
	var (
		ref LetterRef
		rec contract.Record
	)
	err = s.onLetter(ctx, line, order.Letter, func(l letter) (err error) {
		ref = l.ref()
		rec, err = l.replayed(to, order.Force)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := to.Publish(ctx, rec); err != nil {
		return 0, fmt.Errorf("publish %s again: %w", ref, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	if _, err := s.pool.Exec(ctx, replayedSQL, ref.Topic, ref.Place.Partition, ref.Place.Offset, s.now(), actor.name()); err != nil {
		return 0, fmt.Errorf("note replay of %s, which is on its topic: %w", ref, err)
	}
	return rec.Partition, nil
}

// ReplayOrder is what an operator asks for.
type ReplayOrder struct {
	Letter uuid.UUID
	Force  bool // also what today's decoder cannot read
}

func (l letter) replayed(to Replayer, force bool) (contract.Record, error) {
	refuse := func(detail string) error { return fault.New(fault.Conflict, "not_replayable", detail) }
	if l.Topic != to.Topics.Commands {
		return contract.Record{}, refuse("Only commands can be replayed: the topic " + l.Topic + " still holds its record, and its readers begin where they are told to.")
	}
	if l.value == nil {
		return contract.Record{}, refuse("Its bytes are gone: they are kept for 7 days.")
	}
	rec := contract.Record{Topic: l.Topic, Partition: l.Place.Partition, Time: l.CreatedAt, Key: l.key, Value: l.value}
	for _, h := range l.headers {
		if h.Key != contract.ReplayOf {
			rec.Headers = append(rec.Headers, contract.Header{Key: h.Key, Value: h.value()})
		}
	}
	_, _, err := contract.DecodeCommand(rec)
	switch {
	case err == nil:
		rec.Partition = contract.PartitionOf(l.key, to.Partitions)
	case !force && errors.Is(err, contract.ErrUnknown):
		return contract.Record{}, refuse("This program does not know the command either: it would park its pair. Force it if that is meant.")
	case !force:
		return contract.Record{}, refuse("It still cannot be read: it would be a dead letter again. Force it if a newer program reads the topic.")
	case l.key != nil && errors.Is(err, contract.ErrUnknown):
		rec.Partition = contract.PartitionOf(l.key, to.Partitions)
	}
	// By where it lay the processor knows that it was not late then.
	rec.Headers = append(rec.Headers, contract.ReplayHeader(l.Place.Partition, l.Place.Offset))
	return rec, nil
}
