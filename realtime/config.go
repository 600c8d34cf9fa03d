package realtime

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
)

// Verifier checks an access token. Errors are of fault.Unauthenticated when the token is
// bad, with the code token_expired when that is all that is wrong.
type Verifier interface {
	Verify(ctx context.Context, token string) (identity.Identity, error)
}

// Events is the tail of the events topic. Subscribers are called in order per partition
// and never block. Ready is closed once every partition's end is known: an event committed
// afterwards reaches the subscribers.
type Events interface {
	Subscribe(handle func(contract.Event)) (cancel func())
	Ready() <-chan struct{}
}

// Control is the tail of the control topic. Its subscribers never block.
type Control interface {
	Subscribe(handle func(contract.SessionRevoked)) (cancel func())
}

// Config is what a Gateway needs. Zero limits and durations take the defaults named here.
type Config struct {
	Pool       *pgxpool.Pool // the primary: a replica that lags would break G5
	Verifier   Verifier
	Events     Events
	Control    Control // tells at once of sessions that have ended; nil: SessionEvery alone does
	Peers      Peers   // tells who is online at other instances; nil: presence is off
	Announcer  Announcer
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time

	// Origins lists the web origins that may connect, such as "https://app.example.com"
	// or, for its subdomains, "https://*.example.com". "*" admits any: for development. A
	// request without an Origin header is not from a browser and passes.
	Origins edge.Origins
	// SameOrigin also admits pages from the host that is dialled: the demo's, in development.
	SameOrigin bool
	// Admit counts a handshake, or refuses it as the fault rate_limited; nil: nothing limits them.
	Admit func(*http.Request) error

	// PresenceTopic and its number of partitions are what the Announcer writes to.
	PresenceTopic      string
	PresencePartitions int

	MaxSockets     int // on this instance; default 50,000
	MaxPending     int // sockets that are not ready yet; default 1,024
	SocketsPerUser int // on this instance; default 10
	QueueBytes     int // frames waiting for one socket; default 256 KiB
	PageSize       int // events in one read of an inbox; default 100
	MaxReads       int // concurrent statements that read inboxes, for many sockets each; default 4
	MessagesPerSec int // from one socket, more are read later; default 100

	// WindowBytes is what the gateway keeps of the events that the topic brought of late, to
	// bring sockets up to date without reading their inboxes; about 400 bytes an event. Default
	// 32 MiB; negative keeps none.
	WindowBytes int
	WindowAge   time.Duration // for which they are kept; default 5 min

	HelloWithin time.Duration // from upgrade to hello; default 5 s
	OpenWithin  time.Duration // from hello to ready, with retries; default 10 s
	Heartbeat   time.Duration // between pings; default 25 s
	// PongWithin is how long a pong may take; default 7 s. With Heartbeat and LeaveWithin it is
	// what passes at most until a phone that lost its network is seen to be offline.
	PongWithin   time.Duration
	WriteWithin  time.Duration // for one frame; default 10 s
	CloseWithin  time.Duration // for a close frame and its echo, each; default 1 s
	ExpiryNotice time.Duration // before a token expires; default 60 s
	// TicketLifetime is how long a socket that came with a ticket lives without an auth
	// message: as long as the access token behind it could. Default 15 min.
	TicketLifetime time.Duration

	// StraightFor is the age, by appliedAt, up to which an event is sent straight from the
	// topic; an older one is read from the inbox, where cuts apply. Default 500 ms.
	StraightFor time.Duration
	// ConfirmedFor is the age, since it was applied or read, at which a frame that still
	// waits for its socket is read again instead of being written (G9). Default 1 s.
	ConfirmedFor time.Duration
	GapWait      time.Duration // for other partitions to catch up before a gap is read; default 20 ms
	ReadWithin   time.Duration // one read of an inbox; default 2 s
	GiveUpAfter  time.Duration // of failing reads while behind; default 60 s
	HeadEvery    time.Duration // between looks at the head of an inbox; default 25 s
	SessionEvery time.Duration // between looks at the sessions: what a revoked one may still receive; default 500 ms
	AckEvery     time.Duration // between flushes of acknowledgements; default 100 ms
	DrainWithin  time.Duration // spread of the closes of a draining instance; default 2 s

	AnnounceEvery  time.Duration // between two words to the topic of who is online still; default 10 s
	PresenceExpiry time.Duration // of what an instance said that is not heard of; default 25 s
	LeaveWithin    time.Duration // in which a user without sockets may come again unnoticed; default 1.5 s
	PresenceTick   time.Duration // between looks at what time has changed; default 500 ms
}

func (c Config) withDefaults() Config {
	c.MaxSockets = cmp.Or(c.MaxSockets, 50_000)
	c.MaxPending = cmp.Or(c.MaxPending, 1024)
	c.SocketsPerUser = cmp.Or(c.SocketsPerUser, 10)
	c.QueueBytes = cmp.Or(c.QueueBytes, 256<<10)
	c.PageSize = cmp.Or(c.PageSize, 100)
	c.MaxReads = cmp.Or(c.MaxReads, 4)
	c.MessagesPerSec = cmp.Or(c.MessagesPerSec, 100)
	c.WindowBytes = cmp.Or(c.WindowBytes, 32<<20)
	c.WindowAge = cmp.Or(c.WindowAge, 5*time.Minute)
	c.HelloWithin = cmp.Or(c.HelloWithin, 5*time.Second)
	c.OpenWithin = cmp.Or(c.OpenWithin, 10*time.Second)
	c.Heartbeat = cmp.Or(c.Heartbeat, 25*time.Second)
	c.PongWithin = cmp.Or(c.PongWithin, 7*time.Second)
	c.WriteWithin = cmp.Or(c.WriteWithin, 10*time.Second)
	c.CloseWithin = cmp.Or(c.CloseWithin, time.Second)
	c.ExpiryNotice = cmp.Or(c.ExpiryNotice, time.Minute)
	c.TicketLifetime = cmp.Or(c.TicketLifetime, 15*time.Minute)
	c.StraightFor = cmp.Or(c.StraightFor, 500*time.Millisecond)
	c.ConfirmedFor = cmp.Or(c.ConfirmedFor, time.Second)
	c.GapWait = cmp.Or(c.GapWait, 20*time.Millisecond)
	c.ReadWithin = cmp.Or(c.ReadWithin, 2*time.Second)
	c.GiveUpAfter = cmp.Or(c.GiveUpAfter, time.Minute)
	c.HeadEvery = cmp.Or(c.HeadEvery, 25*time.Second)
	c.SessionEvery = cmp.Or(c.SessionEvery, 500*time.Millisecond)
	c.AckEvery = cmp.Or(c.AckEvery, 100*time.Millisecond)
	c.DrainWithin = cmp.Or(c.DrainWithin, 2*time.Second)
	c.AnnounceEvery = cmp.Or(c.AnnounceEvery, 10*time.Second)
	c.PresenceExpiry = cmp.Or(c.PresenceExpiry, 25*time.Second)
	c.LeaveWithin = cmp.Or(c.LeaveWithin, 1500*time.Millisecond)
	c.PresenceTick = cmp.Or(c.PresenceTick, 500*time.Millisecond)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c
}
