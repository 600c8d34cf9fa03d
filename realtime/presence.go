package realtime

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// Peers is the tail of the presence topic. Its subscribers never block. Ready is closed once
// what was said before the process started has been handed out.
type Peers interface {
	Subscribe(handle func(contract.Presence)) (cancel func())
	Ready() <-chan struct{}
}

// Announcer writes records to Kafka, each on its topic and partition.
type Announcer interface {
	Write(ctx context.Context, recs []contract.Record) error
}

const (
	// presenceGather is how long changes gather before the database is asked about them.
	presenceGather = 20 * time.Millisecond
	presenceChunk  = 5_000   // users in one question, records in one write
	maxPresent     = 500_000 // users known to be online at other instances; more are not noted
	presenceWrites = 16      // writes waiting for Kafka; more are dropped, and said again
	saveEvery      = time.Minute
)

// presence knows who is online and tells those who may know. One goroutine (run) asks the
// database and makes all frames, another writes to Kafka; everybody else only notes what has
// changed. mu guards the fields below it; a socket's mu may be held when it is taken, never
// the other way round.
//
// Nothing here is a proof: that two people are partners and both share is asked of the
// primary for each frame. Nothing is retried that is said again anyway.
type presence struct {
	g        *Gateway
	instance uuid.UUID
	wake     chan struct{}          // capacity 1
	writes   chan []contract.Record // to the goroutine that writes to Kafka

	mu     sync.Mutex
	here   map[uuid.UUID]*present             // users with sockets here, or who just had some
	there  map[uuid.UUID]map[uuid.UUID]report // by user and other instance
	people int                                // entries of there, of all instances
	// watchers finds the sockets that may have been told of a user.
	watchers map[uuid.UUID]map[*socket]struct{}

	arrived  map[uuid.UUID]struct{} // of here: not announced since they came or began to share
	subjects map[uuid.UUID]struct{} // whose watchers have to be asked for
	viewers  map[uuid.UUID]struct{} // who has to be told of their partners
	switched map[uuid.UUID]struct{} // who began or ceased to share
}

// present is a user with sockets here.
type present struct {
	sockets   []*watcher
	left      time.Time // when the last socket ended; zero while there are some
	announced time.Time // when the topic was last told that the user is online; zero: never
	saved     time.Time
}

// watcher is a socket and what it was told of its user's partners.
type watcher struct {
	socket *socket
	told   map[uuid.UUID]bool // by partner: online; nil until there is one
}

// report is what another instance said last of a user.
type report struct {
	online bool
	at     time.Time // when that was heard
	seen   time.Time // when the user was last seen there
}

func newPresence(g *Gateway) *presence {
	return &presence{
		g: g, instance: uuid.New(), wake: make(chan struct{}, 1), writes: make(chan []contract.Record, presenceWrites),
		here: map[uuid.UUID]*present{}, there: map[uuid.UUID]map[uuid.UUID]report{}, watchers: map[uuid.UUID]map[*socket]struct{}{},
		arrived: map[uuid.UUID]struct{}{}, subjects: map[uuid.UUID]struct{}{}, viewers: map[uuid.UUID]struct{}{},
		switched: map[uuid.UUID]struct{}{},
	}
}

func (p *presence) nudge() {
	select {
	case p.wake <- struct{}{}:
	default: // one is waiting already
	}
}

// came notes that a socket is open.
func (p *presence) came(s *socket) {
	if p == nil {
		return
	}
	p.mu.Lock()
	u := p.here[s.user]
	if u == nil {
		u = &present{}
		p.here[s.user] = u
		p.arrived[s.user] = struct{}{}
	}
	p.changed(s.user, len(u.sockets) == 0)
	u.left = time.Time{}
	u.sockets = append(u.sockets, &watcher{socket: s})
	p.viewers[s.user] = struct{}{}
	p.mu.Unlock()
	p.nudge()
}

// went notes that a socket has ended, perhaps since its phone was silent; it may never have
// been open.
func (p *presence) went(s *socket, silent bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.here[s.user]
	if u == nil {
		return
	}
	i := slices.IndexFunc(u.sockets, func(w *watcher) bool { return w.socket == s })
	if i < 0 {
		return
	}
	for subject := range u.sockets[i].told {
		p.unwatch(subject, s)
	}
	u.sockets = slices.Delete(u.sockets, i, i+1)
	if len(u.sockets) > 0 {
		return
	}
	u.left = p.g.cfg.Clock()
	if silent { // it went when it was last heard, and nobody waits for it to come again
		u.left = u.left.Add(-p.g.cfg.Heartbeat - p.g.cfg.PongWithin)
	}
}

// unwatch forgets that a socket was told of a user. mu is held.
func (p *presence) unwatch(subject uuid.UUID, s *socket) {
	delete(p.watchers[subject], s)
	if len(p.watchers[subject]) == 0 {
		delete(p.watchers, subject)
	}
}

// stale notes that a frame waited too long for its socket and was not sent: the socket is
// told anew, if it is still true. The socket's mu is held.
func (p *presence) stale(s *socket, subject uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.here[s.user]; u != nil {
		for _, w := range u.sockets {
			if w.socket == s && w.told != nil {
				delete(w.told, subject)
				p.unwatch(subject, s)
			}
		}
		p.viewers[s.user] = struct{}{}
		p.nudge()
	}
}

// heard notes what another instance says. It never waits: it is called by the tail.
func (p *presence) heard(said contract.Presence) {
	if said.Instance == p.instance {
		return
	}
	now := p.g.cfg.Clock()
	at := now
	select {
	case <-p.g.cfg.Peers.Ready():
	default: // of before this instance started: as old as it says
		if said.Time.Before(at) {
			at = said.Time
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.online(said.UserID, now)
	of := p.there[said.UserID]
	if of == nil {
		if !said.Online && len(p.watchers[said.UserID]) == 0 || p.people >= maxPresent {
			return
		}
		of = map[uuid.UUID]report{}
		p.there[said.UserID] = of
	}
	if _, ok := of[said.Instance]; !ok {
		p.people++
	}
	of[said.Instance] = report{online: said.Online, at: at, seen: said.Time}
	p.changed(said.UserID, before != p.online(said.UserID, now))
}

// changed asks for a user's watchers, if there are some here. mu is held.
func (p *presence) changed(user uuid.UUID, has bool) {
	if has && len(p.watchers[user]) > 0 {
		p.subjects[user] = struct{}{}
		p.nudge()
	}
}

// online reports whether any instance has a socket of the user. mu is held.
func (p *presence) online(user uuid.UUID, now time.Time) bool {
	if u := p.here[user]; u != nil && (len(u.sockets) > 0 || now.Sub(u.left) < p.g.cfg.LeaveWithin) {
		return true
	}
	for _, r := range p.there[user] {
		if r.online && now.Sub(r.at) < p.g.cfg.PresenceExpiry {
			return true
		}
	}
	return false
}

// lastSeen returns when the user was last seen online, as far as is known here. mu is held.
func (p *presence) lastSeen(user uuid.UUID) (last time.Time) {
	if u := p.here[user]; u != nil {
		last = u.left
	}
	for _, r := range p.there[user] {
		if r.seen.After(last) {
			last = r.seen
		}
	}
	return last
}

// onEvent looks at what changes who may see whom. It never waits: it is called by the tail.
func (p *presence) onEvent(ev contract.Event) {
	if p == nil {
		return
	}
	switch ev.Type {
	case partner.EventProfileUpdated.String(), partner.EventPartnershipStarted.String(), partner.EventPartnershipEnded.String():
	default:
		return
	}
	pair, err := partner.ParsePair(ev.Pair)
	if err != nil {
		return
	}
	if ev.Type == partner.EventProfileUpdated.String() {
		if data, err := ev.Details(); err != nil || !slices.Contains(data.Fields, "presence") {
			return
		}
		if !pair.Solo() {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, user := range []uuid.UUID{pair.Low, pair.High} {
		p.subjects[user] = struct{}{}
		if p.here[user] != nil {
			p.viewers[user] = struct{}{}
		}
		if pair.Solo() {
			p.switched[user] = struct{}{}
			if p.here[user] != nil {
				p.arrived[user] = struct{}{} // whether the topic may know of them has changed
			}
		}
	}
	p.nudge()
}

// run tells of changes until ctx ends.
func (p *presence) run(ctx context.Context) {
	var writer sync.WaitGroup
	writer.Go(func() { p.write(ctx) })
	defer writer.Wait()
	select {
	case <-p.g.cfg.Peers.Ready():
	case <-time.After(p.g.cfg.OpenWithin): // without the topic nobody elsewhere is known
	case <-ctx.Done():
		return
	}
	failures := 0
	tick := time.NewTicker(p.g.cfg.PresenceTick)
	defer tick.Stop()
	for {
		scan := false
		select {
		case <-ctx.Done():
		case <-tick.C:
			scan = true
		case <-p.wake:
			pauseFor(ctx, presenceGather)
		}
		if ctx.Err() != nil {
			p.saveAll(ctx)
			return
		}
		if err := p.round(ctx, scan); err != nil && ctx.Err() == nil {
			if failures++; failures == 1 {
				p.g.cfg.Log.WarnContext(ctx, "presence waits", "error", err)
			}
			pauseFor(ctx, backoff(failures))
			continue
		}
		failures = 0
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// round announces who came, tells of what has changed, and, when it is to scan, looks for what
// time has changed.
func (p *presence) round(ctx context.Context, scan bool) error {
	now := p.g.cfg.Clock()
	if scan {
		p.expire(now)
	}
	if err := p.announce(ctx, now, scan); err != nil {
		return err
	}
	return p.tell(ctx)
}

// expire forgets what instances said that are not heard of any more.
func (p *presence) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for user, of := range p.there {
		for instance, r := range of {
			if now.Sub(r.at) < p.g.cfg.PresenceExpiry {
				continue
			}
			switch {
			case r.online: // gone without a word; its last one says when they were last seen
				p.g.m.expired.Inc()
				of[instance] = report{at: now, seen: r.seen}
				p.changed(user, true)
			case len(p.watchers[user]) == 0:
				delete(of, instance)
				p.people--
			}
		}
		if len(of) == 0 {
			delete(p.there, user)
		}
	}
}

// announce tells the topic who is online here, and who no longer is.
func (p *presence) announce(ctx context.Context, now time.Time, scan bool) error {
	var ask, leaving []uuid.UUID
	p.mu.Lock()
	arrived := p.some(p.arrived)
	ask = append(ask, arrived...)
	if scan {
		for user, u := range p.here {
			switch {
			case len(u.sockets) == 0:
				if now.Sub(u.left) >= p.g.cfg.LeaveWithin {
					leaving = append(leaving, user)
				}
			case !u.announced.IsZero() && now.Sub(u.announced) >= p.g.cfg.AnnounceEvery && len(ask) < presenceChunk:
				ask = append(ask, user) // whoever is too many has a turn in the next scan
			}
		}
	}
	p.mu.Unlock()
	shares, err := p.g.store.sharers(ctx, ask)
	if err != nil {
		p.mu.Lock()
		note(p.arrived, arrived)
		p.mu.Unlock()
		return err
	}
	var (
		said []contract.Presence
		save []uuid.UUID
		at   []time.Time
	)
	p.mu.Lock()
	for _, user := range ask {
		u := p.here[user]
		if u == nil || len(u.sockets) == 0 {
			continue
		}
		switch {
		case shares[user]:
			u.announced = now
			said = append(said, contract.Presence{UserID: user, Instance: p.instance, Online: true, Time: contract.Instant(now)})
			if now.Sub(u.saved) >= saveEvery {
				u.saved = now
				save, at = append(save, user), append(at, now)
			}
		case !u.announced.IsZero():
			u.announced = time.Time{}
			said = append(said, contract.Presence{UserID: user, Instance: p.instance, Time: contract.Instant(now)})
		}
	}
	for _, user := range leaving {
		u := p.here[user]
		if u == nil || len(u.sockets) > 0 {
			continue
		}
		if !u.announced.IsZero() {
			save, at = append(save, user), append(at, u.left)
			// A gateway that leaves says nothing: its phones are on their way to another.
			if !p.g.isLeaving() {
				said = append(said, contract.Presence{UserID: user, Instance: p.instance, Time: contract.Instant(u.left)})
			}
		}
		p.changed(user, true)
		delete(p.here, user)
	}
	p.mu.Unlock()
	p.publish(said)
	return p.g.store.saveSeen(ctx, save, at)
}

// saveAll writes when everybody here was last seen, as the gateway ends.
func (p *presence) saveAll(ctx context.Context) {
	now := p.g.cfg.Clock()
	var users []uuid.UUID
	var at []time.Time
	p.mu.Lock()
	for user, u := range p.here {
		if u.announced.IsZero() {
			continue
		}
		users = append(users, user)
		if u.left.IsZero() {
			at = append(at, now)
		} else {
			at = append(at, u.left)
		}
	}
	p.mu.Unlock()
	if err := p.g.store.saveSeen(context.WithoutCancel(ctx), users, at); err != nil {
		p.g.cfg.Log.WarnContext(ctx, "when users were last seen is not written", "error", err)
	}
}

// publish hands records to the goroutine that writes, or drops them: what is online is said
// again, and what is offline is believed no longer than it is said.
func (p *presence) publish(said []contract.Presence) {
	if p.g.cfg.Announcer == nil {
		return
	}
	for part := range slices.Chunk(said, presenceChunk) {
		recs := make([]contract.Record, 0, len(part))
		for _, v := range part {
			rec, err := contract.EncodePresence(p.g.cfg.PresenceTopic, p.g.cfg.PresencePartitions, v)
			if err != nil {
				p.g.cfg.Log.Error("presence is not told", "error", err)
				continue
			}
			recs = append(recs, rec)
		}
		select {
		case p.writes <- recs:
		default:
			p.g.m.announced.WithLabelValues("dropped").Add(float64(len(recs)))
		}
	}
}

func (p *presence) write(ctx context.Context) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case recs := <-p.writes:
			within, cancel := context.WithTimeout(ctx, p.g.cfg.ReadWithin)
			err := p.g.cfg.Announcer.Write(within, recs)
			cancel()
			result := "ok"
			if err != nil {
				result = "failed"
				if !failing && ctx.Err() == nil {
					p.g.cfg.Log.WarnContext(ctx, "other instances do not hear who is online here", "error", err)
				}
				pauseFor(ctx, rand.N(time.Second))
			}
			failing = err != nil
			p.g.m.announced.WithLabelValues(result).Add(float64(len(recs)))
		}
	}
}

// tell asks who may know of what has changed, and tells them.
func (p *presence) tell(ctx context.Context) error {
	p.mu.Lock()
	subjects, viewers, switched := p.some(p.subjects), p.some(p.viewers), p.some(p.switched)
	p.mu.Unlock()
	if len(subjects)+len(viewers) == 0 {
		return nil
	}
	p.g.m.presenceReads.Inc()
	readAt := p.g.cfg.Clock()
	err := p.g.store.forgetSeen(ctx, switched)
	var rows []watching
	if err == nil {
		rows, err = p.g.store.watching(ctx, subjects, viewers)
	}
	if err == nil && p.g.cfg.Clock().Sub(readAt) > p.g.cfg.ConfirmedFor {
		err = context.DeadlineExceeded // true once, but no longer known to be
	}
	p.mu.Lock()
	if err != nil {
		note(p.subjects, subjects)
		note(p.viewers, viewers)
		note(p.switched, switched)
		p.mu.Unlock()
		return err
	}
	frames := p.compare(subjects, viewers, rows)
	p.mu.Unlock()
	for _, f := range frames {
		f.to.mu.Lock()
		f.to.push(frame{kind: kindPresence, body: encode(f.frame), confirmed: readAt, about: f.frame.UserID})
		f.to.mu.Unlock()
	}
	return nil
}

// some takes up to a chunk of users; the others are left for the next round. mu is held.
func (p *presence) some(from map[uuid.UUID]struct{}) (out []uuid.UUID) {
	for user := range from {
		if len(out) == presenceChunk {
			p.nudge()
			break
		}
		out = append(out, user)
		delete(from, user)
	}
	return out
}

func note(in map[uuid.UUID]struct{}, users []uuid.UUID) {
	for _, user := range users {
		in[user] = struct{}{}
	}
}

// told is a frame for a socket.
type told struct {
	to    *socket
	frame presenceFrame
}

// compare returns the frames that make what sockets were told what the rows say. mu is held.
func (p *presence) compare(subjects, viewers []uuid.UUID, rows []watching) (frames []told) {
	now := p.g.cfg.Clock()
	type edge struct{ viewer, subject uuid.UUID }
	partners := make(map[edge]bool, len(rows))
	for _, r := range rows {
		at := edge{r.Viewer, r.Subject}
		if partners[at] {
			continue // asked for from both sides
		}
		partners[at] = true
		u := p.here[r.Viewer]
		if u == nil {
			continue
		}
		state := presenceFrame{Op: "presence", UserID: r.Subject}
		if r.Shared {
			state.Online = p.online(r.Subject, now)
			last := p.lastSeen(r.Subject)
			if r.SeenAt != nil && r.SeenAt.After(last) {
				last = *r.SeenAt
			}
			if state.Online {
				last = now
			}
			if !last.IsZero() {
				state.LastSeenAt = new(last.UTC().Truncate(time.Millisecond))
			}
		}
		for _, w := range u.sockets {
			was, known := w.told[r.Subject]
			switch {
			case r.Shared && (!known || was != state.Online):
				if w.told == nil {
					w.told = map[uuid.UUID]bool{}
				}
				w.told[r.Subject] = state.Online
				if p.watchers[r.Subject] == nil {
					p.watchers[r.Subject] = map[*socket]struct{}{}
				}
				p.watchers[r.Subject][w.socket] = struct{}{}
				frames = append(frames, told{w.socket, state})
			case !r.Shared && known:
				// Once more, without saying since when, and never again.
				delete(w.told, r.Subject)
				p.unwatch(r.Subject, w.socket)
				frames = append(frames, told{w.socket, state})
			}
		}
	}
	// Who is no partner any more is told nothing, not even that.
	forget := func(viewer, subject uuid.UUID) {
		if partners[edge{viewer, subject}] {
			return
		}
		for _, w := range p.here[viewer].sockets {
			delete(w.told, subject)
			p.unwatch(subject, w.socket)
		}
	}
	for _, subject := range subjects {
		for s := range p.watchers[subject] {
			if p.here[s.user] != nil {
				forget(s.user, subject)
			}
		}
	}
	for _, viewer := range viewers {
		u := p.here[viewer]
		if u == nil {
			continue
		}
		for _, w := range u.sockets {
			for subject := range w.told {
				forget(viewer, subject)
			}
		}
	}
	return frames
}
