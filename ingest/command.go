package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

const (
	// defaultDeadline is how long after its arrival a command may still be written. Timers
	// and the stale rule of the processor lean on it.
	defaultDeadline = 2500 * time.Millisecond
	// pollInterval is how often a waiting call looks without being woken, in case the tail
	// of events is behind.
	pollInterval = 500 * time.Millisecond
	// mismatchWait is how long a call that conflicts with one under way waits to be judged
	// by what was stored.
	mismatchWait = time.Second
	// recentPairs is how many requests just sent are remembered with their pair; about 10 MB.
	recentPairs = 65_536
)

// keyNamespace makes command ids from Idempotency-Keys; arbitrary, never changed.
var keyNamespace = uuid.MustParse("6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11")

// commander turns calls into commands on the topic, each with exactly one outcome.
type commander struct {
	publisher  *guardedPublisher
	outcomes   *outcomes
	ledger     *ledger
	pairs      *recent[uuid.UUID, partner.Pair] // by request id
	topics     contract.Topics
	partitions int
	deadline   time.Duration
	clock      func() time.Time
	metrics    *metrics
	log        *slog.Logger
}

// intent is one call's wish to have a command carried out.
type intent struct {
	kind        partner.CommandType
	issuer      uuid.UUID
	id          uuid.UUID
	keyed       bool // the id comes from an Idempotency-Key
	fingerprint [16]byte
	arrived     time.Time
	wait        time.Duration // zero: answer as soon as it is accepted
	gone        <-chan struct{}
	traceparent string
	address     string // where the call came from, for the activity log
	device      string // what it said of itself

	// resolve completes the command: its pair and what it names. It is called only when
	// the command has to be written, since a repeated call must find its outcome even
	// when what it named is gone. It returns how long it waited for the pipe.
	resolve func(ctx context.Context, cmd *partner.Command) (waited time.Duration, err error)
}

// verdict is the answer to an intent: the outcome, or that the command is accepted.
type verdict struct {
	outcome  *outcome
	replayed bool // the command had been sent before this call
}

// identify sets the intent's id and fingerprint from what was called. With a key the same
// call has the same id at every instance.
func (in *intent) identify(key, method string, u *url.URL, body any) error {
	canonical := []byte{}
	if body != nil {
		var err error
		if canonical, err = json.Marshal(body); err != nil { // object keys come out sorted
			return fmt.Errorf("canonical body: %w", err)
		}
	}
	sum := sha256.New()
	sum.Write(fmt.Appendf(nil, "%s\n%s\n%s\n", method, u.Path, u.Query().Encode())) // sorted too
	sum.Write(canonical)
	copy(in.fingerprint[:], sum.Sum(nil))
	if key == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make command id: %w", err)
		}
		in.id = id
		return nil
	}
	in.keyed = true
	in.id = uuid.NewSHA1(keyNamespace, fmt.Appendf(nil, "%s\n%s\n%s\n%s", in.issuer, method, u.Path, key))
	return nil
}

// issue carries out an intent. Register, look, write, wait, look again: in this order no
// wake-up is lost.
func (c *commander) issue(ctx context.Context, in *intent) (verdict, error) {
	var w *waiter
	if in.wait > 0 || in.keyed {
		w = c.outcomes.register(in.id)
		defer c.outcomes.unregister(w)
	}
	if in.keyed {
		out, err := c.outcomes.look(ctx, in.id)
		if err != nil {
			return verdict{}, err
		}
		if out != nil {
			return c.judge(in, out, true)
		}
	}
	acceptedAt, earlier, err := c.writeOnce(ctx, in)
	if err != nil {
		return verdict{}, err
	}
	if earlier != nil {
		return c.follow(ctx, in, w, earlier)
	}
	if in.wait == 0 {
		return verdict{}, nil
	}
	return c.await(ctx, in, w, await{until: in.arrived.Add(in.wait), acceptedAt: acceptedAt})
}

// writeOnce writes the command unless another call of this instance is writing it or has
// written it: then it returns that one's entry. That only saves writing twice: the
// processor drops repeats by the command's id.
func (c *commander) writeOnce(ctx context.Context, in *intent) (acceptedAt time.Time, earlier *entry, err error) {
	limit := time.NewTimer(time.Until(in.arrived.Add(c.deadline)))
	defer limit.Stop()
	for {
		e, first := c.ledger.open(in)
		if first {
			err := errAbandoned // unless write returns, so that a panic leaves no entry open
			defer func() { c.ledger.settle(e, acceptedAt, err) }()
			acceptedAt, err = c.write(ctx, in)
			return acceptedAt, nil, err
		}
		select {
		case <-e.written:
		case <-limit.C:
			return time.Time{}, nil, unavailable(nil, "queue_unavailable",
				"The command is still being queued; try again with the same Idempotency-Key.")
		}
		switch {
		case e.err == nil:
			return time.Time{}, e, nil
		case e.fingerprint == in.fingerprint:
			return time.Time{}, nil, e.err
		}
		// The other request came to nothing, so the key is free for this one.
	}
}

var errAbandoned = errors.New("the writing call ended early")

// write produces the command within the deadline.
func (c *commander) write(ctx context.Context, in *intent) (time.Time, error) {
	cmd := partner.Command{
		ID: in.id, Type: in.kind, Issuer: in.issuer, Fingerprint: in.fingerprint, Address: in.address, Device: in.device,
	}
	waited, err := in.resolve(ctx, &cmd)
	if err != nil {
		return time.Time{}, err
	}
	cmd.AcceptedAt = c.clock().UTC().Truncate(time.Microsecond)
	rec, err := contract.EncodeCommand(c.topics, c.partitions, cmd, in.traceparent)
	if err != nil {
		return time.Time{}, fmt.Errorf("encode command: %w", err)
	}
	// The wait for the pipe is the caller's own choice and comes before acceptedAt: what is
	// left for writing never exceeds the deadline counted from there.
	ctx, cancel := context.WithDeadline(ctx, in.arrived.Add(c.deadline+waited))
	defer cancel()
	if err := c.publisher.publish(ctx, rec); err != nil {
		return time.Time{}, err
	}
	c.metrics.accepted.WithLabelValues(in.kind.String()).Inc()
	if in.kind == partner.Send {
		c.pairs.put(partner.RequestIDOf(in.id), cmd.Pair)
	}
	return cmd.AcceptedAt, nil
}

// follow answers a call whose command was written before by another call.
func (c *commander) follow(ctx context.Context, in *intent, w *waiter, e *entry) (verdict, error) {
	if e.fingerprint == in.fingerprint {
		if in.wait == 0 {
			return verdict{replayed: true}, nil
		}
		return c.await(ctx, in, w, await{until: in.arrived.Add(in.wait), replayed: true})
	}
	// Another instance may have written this call's command before ours wrote the other
	// one: what was stored decides, and what we know only when nothing is stored yet.
	v, err := c.await(ctx, in, w, await{until: in.arrived.Add(max(in.wait, mismatchWait)), replayed: true})
	if err == nil && v.outcome == nil {
		return verdict{}, mismatch(in.id)
	}
	return v, err
}

type await struct {
	until      time.Time
	acceptedAt time.Time // of a command written by this very call
	replayed   bool
}

// await waits for the outcome. When none comes in time, or it cannot be read, the command
// is still accepted and the verdict says so.
func (c *commander) await(ctx context.Context, in *intent, w *waiter, a await) (verdict, error) {
	end := time.NewTimer(time.Until(a.until))
	defer end.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	if a.replayed {
		// The event may have come before this call registered.
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	for last := false; !last; {
		select {
		case <-w.wake:
		case <-poll.C:
		case <-end.C:
			last = true
		case <-in.gone:
			c.metrics.waits.WithLabelValues("left").Inc()
			return verdict{replayed: a.replayed}, nil
		}
		out, err := c.outcomes.look(ctx, in.id)
		if err != nil {
			c.log.WarnContext(ctx, "look for an awaited outcome", "command_id", in.id, "error", err)
			continue
		}
		if out != nil {
			if !a.acceptedAt.IsZero() {
				c.metrics.applied.Observe(c.clock().Sub(a.acceptedAt).Seconds())
			}
			c.metrics.waits.WithLabelValues("outcome").Inc()
			return c.judge(in, out, a.replayed)
		}
	}
	c.metrics.waits.WithLabelValues("timeout").Inc()
	return verdict{replayed: a.replayed}, nil
}

// judge holds a stored outcome against the intent.
func (c *commander) judge(in *intent, out *outcome, replayed bool) (verdict, error) {
	if out.Issuer != in.issuer || string(out.Fingerprint) != string(in.fingerprint[:]) {
		return verdict{}, mismatch(in.id)
	}
	return verdict{outcome: out, replayed: replayed}, nil
}

func mismatch(id uuid.UUID) error {
	return &rejection{
		fault: fault.New(fault.Conflict, "idempotency_mismatch",
			"This Idempotency-Key was used with another request."),
		commandID: id,
	}
}
