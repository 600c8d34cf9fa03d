package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
)

// Config says how to reach the cluster.
type Config struct {
	Brokers  []string // host:port, at least one
	ClientID string   // appears in the broker's logs and quotas
	// MetadataTTL is how long leaders are believed; default 1 s. kafka-go does not ask
	// again on NotLeader, so this bounds how long a moved partition is written in vain.
	MetadataTTL time.Duration
	// DialTimeout bounds a connection's set-up with its first exchange; default 1 s.
	DialTimeout time.Duration
	// Timeout bounds a call whose context has no deadline; default 10 s.
	Timeout time.Duration
	// Replication is that of topics which EnsureTopics creates; default is the broker's.
	Replication int
	// Security holds for every connection; DialTimeout is 3 s by default then.
	Security Security
}

// Client holds the connections to a cluster. It is safe for concurrent use.
type Client struct {
	cfg       Config
	log       *slog.Logger
	addr      net.Addr
	transport *kafka.Transport
	admin     *kafka.Client
	stop      context.CancelFunc
}

// New returns a client; it connects on first use. Close releases it.
func New(cfg Config, log *slog.Logger) *Client {
	if cfg.MetadataTTL <= 0 {
		cfg.MetadataTTL = time.Second
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = time.Second
		if cfg.Security.enabled() {
			cfg.DialTimeout = 3 * time.Second
		}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "bondmate"
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Client{
		cfg:  cfg,
		log:  log,
		addr: kafka.TCP(cfg.Brokers...),
		stop: stop,
	}
	c.transport = &kafka.Transport{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.dial(ctx, network, address)
			if err != nil {
				return nil, notSent(err)
			}
			return conn, nil
		},
		DialTimeout: cfg.DialTimeout,
		IdleTimeout: 30 * time.Second,
		MetadataTTL: cfg.MetadataTTL,
		ClientID:    cfg.ClientID,
		Context:     ctx,
	}
	c.admin = &kafka.Client{Addr: c.addr, Transport: c.transport}
	return c
}

// dial opens a connection on which requests may be sent: encrypted and logged in, as
// Config.Security says. Every connection of the client comes from here.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	dialer := net.Dialer{KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c.cfg.Security.secure(ctx, conn, address, c.cfg.ClientID)
}

// Close drops the connections. Calls under way end by their own deadlines.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.stop()
}

// bounded returns ctx with a deadline: its own or the client's timeout.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

// Ping asks a broker for something that no cache can answer, and fails, too, while the
// cluster has never shown its layout: a broker answers the first also to somebody who is
// not logged in.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	res, err := c.admin.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	if err == nil {
		err = res.Error
	}
	if err == nil {
		_, err = c.transport.RoundTrip(ctx, c.addr, &metadata.Request{TopicNames: []string{}})
	}
	if err != nil {
		return fmt.Errorf("ping %s: %w", strings.Join(c.cfg.Brokers, ","), err)
	}
	return nil
}

// Partitions returns a topic's partition count.
func (c *Client) Partitions(ctx context.Context, topic string) (int, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	leaders, err := c.leaders(ctx, topic)
	if err != nil {
		return 0, err
	}
	return len(leaders[topic]), nil
}

// leaders returns for each topic the leader of each partition, -1 for none, from
// metadata at most MetadataTTL old. A topic that does not exist is an error that
// wraps kafka.UnknownTopicOrPartition. All errors are marked ErrNotSent.
func (c *Client) leaders(ctx context.Context, topics ...string) (map[string][]int32, error) {
	m, err := c.transport.RoundTrip(ctx, c.addr, &metadata.Request{TopicNames: topics})
	if err != nil {
		return nil, notSent(fmt.Errorf("load metadata: %w", err))
	}
	leaders := make(map[string][]int32, len(topics))
	for _, t := range m.(*metadata.Response).Topics {
		if t.ErrorCode != 0 {
			hint := ""
			if kafka.Error(t.ErrorCode) == kafka.UnknownTopicOrPartition && c.cfg.Security.enabled() {
				hint = " (or this login has no right to it: a topic that one may not describe is not shown)"
			}
			return nil, notSent(fmt.Errorf("load metadata of %s: %w%s", t.Name, kafka.Error(t.ErrorCode), hint))
		}
		byIndex := make([]int32, len(t.Partitions))
		for i := range byIndex {
			byIndex[i] = -1
		}
		for _, p := range t.Partitions {
			if int(p.PartitionIndex) < len(byIndex) {
				byIndex[p.PartitionIndex] = p.LeaderID
			}
		}
		leaders[t.Name] = byIndex
	}
	return leaders, nil
}

// roundTrip sends a request to the broker that its partitions name.
func (c *Client) roundTrip(ctx context.Context, req kafka.Request) (kafka.Response, error) {
	res, err := c.transport.RoundTrip(ctx, c.addr, req)
	if err == nil {
		return res, nil
	}
	// These come from routing the request in this process: it did not leave.
	if errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition) ||
		errors.Is(err, protocol.ErrNoLeader) || errors.Is(err, kafka.BrokerNotAvailable) {
		return nil, notSent(err)
	}
	if _, ok := errors.AsType[*produce.Error](err); ok {
		return nil, notSent(err)
	}
	return nil, err
}

// pause waits for d and returns true, or false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
