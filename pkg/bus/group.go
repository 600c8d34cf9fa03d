package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// GroupConfig says which partitions to share with whom; zero durations take the defaults.
type GroupConfig struct {
	ID    string
	Topic string
	// SessionTimeout is how long a member may be silent before it loses its partitions;
	// default 10 s. The broker has bounds for it, on Apache Kafka 6 s at the least.
	SessionTimeout time.Duration
	// RebalanceTimeout is how long members have to finish and join again; default 10 s.
	RebalanceTimeout time.Duration
	// Heartbeat is also how long a member takes to hear of a rebalance; default 1 s, at most
	// a third of SessionTimeout.
	Heartbeat time.Duration
}

// Assigned is a partition of a generation.
type Assigned struct {
	Partition int
	Committed int64 // the group's offset to read next, or -1 when none was committed
}

// Generation is one distribution of the partitions among the group's members.
type Generation struct {
	ID         int32
	Partitions []Assigned // ascending; empty when there are more members than partitions
	// Drain is how long the handler may go on after its context ended. Heartbeats have
	// stopped by then: a member that takes longer is thrown out.
	Drain time.Duration
	topic string
	gen   *kafka.Generation
}

// Errors of a group's generations.
var (
	// ErrGenerationEnded is the cause of a handler's context when the group is distributing
	// its partitions anew.
	ErrGenerationEnded = errors.New("consumer group generation ended")
	// ErrFenced says that the group no longer counts this member or generation: the
	// partitions may be another's.
	ErrFenced = errors.New("fenced by the consumer group")
)

// Commit stores the next offset of each partition for the group. It fails with ErrFenced
// when a newer generation exists. It is bounded by the group's session timeout, and by
// ctx only at the beginning.
func (g Generation) Commit(ctx context.Context, next map[int]int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(next) == 0 {
		return nil
	}
	err := g.gen.CommitOffsets(map[string]map[int]int64{g.topic: next})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kafka.IllegalGeneration), errors.Is(err, kafka.UnknownMemberId), errors.Is(err, kafka.FencedInstanceID):
		return fmt.Errorf("commit offsets of %s in generation %d: %w: %w", g.topic, g.ID, ErrFenced, err)
	default:
		return fmt.Errorf("commit offsets of %s in generation %d: %w", g.topic, g.ID, err)
	}
}

// RunGroup joins a consumer group and calls handle for each generation, one at a time.
// The context given to handle ends with the generation (context.Cause is
// ErrGenerationEnded) or with ctx; handle must return within Generation.Drain then.
// Until the topic exists it waits.
//
// When handle returns before that, nil means to join again after a pause; an error ends
// RunGroup, which leaves the group and returns it. RunGroup returns nil when ctx ends.
func (c *Client) RunGroup(ctx context.Context, cfg GroupConfig, handle func(ctx context.Context, gen Generation) error) error {
	cfg = cfg.withDefaults()
	// kafka-go ends a generation at once when the topic is missing, and joins again without
	// a pause.
	if err := c.awaitTopic(ctx, cfg.Topic); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("join group %s: %w", cfg.ID, err)
	}
	conns := &openConns{dialer: c.dial, open: map[net.Conn]bool{}}
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: cfg.ID, Brokers: c.cfg.Brokers, Topics: []string{cfg.Topic},
		Dialer:                 &kafka.Dialer{ClientID: c.cfg.ClientID, Timeout: c.cfg.DialTimeout, DialFunc: conns.dial},
		HeartbeatInterval:      cfg.Heartbeat,
		SessionTimeout:         cfg.SessionTimeout,
		RebalanceTimeout:       cfg.RebalanceTimeout,
		JoinGroupBackoff:       200*time.Millisecond + rand.N(600*time.Millisecond), // #nosec G404 -- spreads load, no secret
		WatchPartitionChanges:  true,
		PartitionWatchInterval: 5 * time.Second,
		Timeout:                min(5*time.Second, cfg.SessionTimeout),
	})
	if err != nil {
		return fmt.Errorf("join group %s: %w", cfg.ID, err)
	}
	// Leaving takes two short requests. A join under way can wait for the whole rebalance
	// timeout, and nothing but its connection's end interrupts it.
	defer func() {
		timer := time.AfterFunc(c.cfg.DialTimeout+time.Second, conns.closeAll)
		defer timer.Stop()
		_ = group.Close()
	}()
	b := backoff{low: 50 * time.Millisecond, high: 2 * time.Second}
	for {
		kgen, err := group.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if !Retriable(err) {
				return fmt.Errorf("join group %s: %w", cfg.ID, err)
			}
			c.log.Warn("kafka group join failed", slog.String("group", cfg.ID), slog.Any("error", err))
			if !b.wait(ctx) {
				return nil
			}
			continue
		}
		begin := time.Now()
		early, err := c.runGeneration(ctx, cfg, kgen, handle)
		if err != nil {
			return fmt.Errorf("group %s, generation %d: %w", cfg.ID, kgen.ID, err)
		}
		if time.Since(begin) > cfg.SessionTimeout {
			b.reset()
		}
		if early && !b.wait(ctx) {
			return nil
		}
	}
}

func (cfg GroupConfig) withDefaults() GroupConfig {
	if cfg.SessionTimeout <= 0 {
		cfg.SessionTimeout = 10 * time.Second
	}
	if cfg.RebalanceTimeout <= 0 {
		cfg.RebalanceTimeout = 10 * time.Second
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = time.Second
	}
	cfg.Heartbeat = min(cfg.Heartbeat, cfg.SessionTimeout/3)
	return cfg
}

// drain is the time from the first sign of a rebalance until a member must be done: the
// session runs from its last heartbeat, up to an interval ago.
func (cfg GroupConfig) drain() time.Duration {
	return min(cfg.SessionTimeout-cfg.Heartbeat, cfg.RebalanceTimeout) * 4 / 5
}

// runGeneration runs the handler for one generation and says whether it returned before
// the generation's end.
func (c *Client) runGeneration(ctx context.Context, cfg GroupConfig, kgen *kafka.Generation,
	handle func(context.Context, Generation) error,
) (early bool, err error) {
	gen := Generation{ID: kgen.ID, Drain: cfg.drain(), topic: cfg.Topic, gen: kgen}
	for _, a := range kgen.Assignments[cfg.Topic] {
		// Without a commit kafka-go puts its StartOffset there, which is negative.
		gen.Partitions = append(gen.Partitions, Assigned{Partition: a.ID, Committed: max(a.Offset, -1)})
	}
	slices.SortFunc(gen.Partitions, func(a, b Assigned) int { return a.Partition - b.Partition })

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	finished := make(chan struct{})
	kgen.Start(func(gctx context.Context) {
		defer close(finished)
		stop := context.AfterFunc(gctx, func() { cancel(ErrGenerationEnded) })
		defer stop()
		begin := time.Now()
		err = handle(ctx, gen)
		early = ctx.Err() == nil
		c.log.Debug("kafka generation finished", slog.String("group", cfg.ID), slog.Int("generation", int(gen.ID)),
			slog.Int("partitions", len(gen.Partitions)), slog.Duration("after", time.Since(begin)))
	})
	<-finished
	if !early && (errors.Is(err, context.Canceled) || errors.Is(err, ErrGenerationEnded)) {
		err = nil
	}
	return early, err
}

func (c *Client) awaitTopic(ctx context.Context, topic string) error {
	b := readBackoff()
	for warned := false; ; {
		_, err := c.Partitions(ctx, topic)
		if err == nil {
			return nil
		}
		if !Retriable(err) {
			return err
		}
		if !warned {
			warned = true
			c.log.Warn("kafka topic not available yet", slog.String("topic", topic), slog.Any("error", err))
		}
		if !b.wait(ctx) {
			return ctx.Err()
		}
	}
}

// Committed returns the offsets that a group has committed for a topic, by partition, -1
// for none, also when the group does not exist.
func (c *Client) Committed(ctx context.Context, group, topic string) ([]int64, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("fetch offsets of group %s: %w", group, err)
	}
	partitions := make([]int, n)
	for i := range n {
		partitions[i] = i
	}
	b := readBackoff()
	for {
		offsets, err := c.committed(ctx, group, topic, partitions)
		if err == nil {
			return offsets, nil
		}
		// The group's coordinator moves, and does not exist before a cluster's first group.
		if code, ok := errors.AsType[kafka.Error](err); !ok || !code.Temporary() || !b.wait(ctx) {
			return nil, fmt.Errorf("fetch offsets of group %s: %w", group, err)
		}
	}
}

func (c *Client) committed(ctx context.Context, group, topic string, partitions []int) ([]int64, error) {
	offsets := make([]int64, len(partitions))
	for i := range offsets {
		offsets[i] = -1
	}
	res, err := c.admin.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: partitions}})
	if err == nil {
		err = res.Error
	}
	// Apache Kafka answers -1 for a group that it does not know, kfake with an error.
	if errors.Is(err, kafka.GroupIdNotFound) {
		return offsets, nil
	}
	if err != nil {
		return nil, err
	}
	for _, p := range res.Topics[topic] {
		if errors.Is(p.Error, kafka.GroupIdNotFound) {
			continue
		}
		if p.Error != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Partition, p.Error)
		}
		if p.Partition < len(offsets) {
			offsets[p.Partition] = max(p.CommittedOffset, -1)
		}
	}
	return offsets, nil
}

// openConns knows the connections of a consumer group, to cut them.
type openConns struct {
	dialer func(ctx context.Context, network, address string) (net.Conn, error)
	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

func (o *openConns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := o.dialer(ctx, network, address)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c := &trackedConn{Conn: conn, of: o}
	o.open[c] = true
	return c, nil
}

func (o *openConns) closeAll() {
	o.mu.Lock()
	conns := o.open
	o.open, o.closed = map[net.Conn]bool{}, true
	o.mu.Unlock()
	for conn := range conns {
		_ = conn.Close()
	}
}

type trackedConn struct {
	net.Conn
	of *openConns
}

func (c *trackedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
