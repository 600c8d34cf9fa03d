package quota

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	shards = 16
	// What an entry takes, about: itself with its places in the map and the list, a rule's
	// count, and a group.
	entryBytes, logBytes, groupBytes = 256, 56, 24
	// keptShare of a shard, in percent, is at most for those who have used up half of a limit.
	keptShare = 80
)

// memory counts within a bound of bytes. When it is full, somebody is forgotten, and that
// must not be whom a limit holds: so subjects that have used up half of a limit or more
// (kept) are set apart from the rest (passing). A flood of addresses that call once only ever
// pushes each other out; to push out one that is held takes as many calls, from as many
// addresses, as those who are held have made together. The passing ones always have a fifth,
// so that newcomers are counted, too.
type memory struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu            sync.Mutex
	entries       map[string]*entry
	kept, passing list
	most          int // bytes, of both
	evicted       int
}

// entry is a subject with its counts.
type entry struct {
	subject    string
	logs       []log
	expires    time.Duration // by then it counts nothing
	bytes      int
	in         *list
	prev, next *entry
}

// log counts the calls of one rule: groups of them, the oldest first.
type log struct {
	rule   string
	groups []group
	told   time.Duration // before that a refusal is not the first
}

type group struct {
	first, last time.Duration
	n           int32
}

func newMemory(bytes int) *memory {
	m := &memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i] = shard{entries: map[string]*entry{}, most: bytes / shards}
	}
	return m
}

func (m *memory) shard(subject string) *shard {
	return &m.shards[maphash.String(m.seed, subject)%shards]
}

// take admits a call and counts it when every rule has room for it; of each limit this
// instance has the share-th part, rounded up.
func (m *memory) take(c Charge, now time.Duration, share int) Decision {
	subject := c.Subject.ID
	s := m.shard(subject)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(subject)
	limit := func(r Rule) int { return (r.Limit + share - 1) / share }
	admitted := true
	for _, r := range c.Rules {
		l := e.log(r.Name)
		l.forget(now, r.Window)
		admitted = admitted && l.used() < limit(r)
	}
	rules, half := make([]Rule, len(c.Rules)), false
	for i, r := range c.Rules {
		l := e.log(r.Name)
		if admitted {
			l.add(now, r.Window/steps)
		}
		e.expires = max(e.expires, now+r.Window)
		rules[i] = Rule{r.Name, limit(r), r.Window}
		half = half || 2*l.used() >= limit(r)
	}
	d := decide(rules, admitted, func(i int) (int, time.Duration) {
		l, r := e.log(rules[i].Name), rules[i]
		if admitted {
			return l.used(), l.groups[0].last + r.Window - now
		}
		return l.used(), l.room(r, now)
	})
	if !admitted {
		d.First = e.log(d.Rule.Name).tell(now, d.Rule.Window)
	}
	s.place(e, half, now)
	for _, r := range c.Rules { // the caller is told of the whole limit
		if r.Name == d.Rule.Name {
			d.Rule = r
		}
	}
	return d
}

// giveBack takes one call off what take has counted.
func (m *memory) giveBack(c Charge, now time.Duration) {
	s := m.shard(c.Subject.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[c.Subject.ID]
	if !ok {
		return // forgotten meanwhile
	}
	for _, r := range c.Rules {
		l := e.log(r.Name)
		l.forget(now, r.Window)
		if last := len(l.groups) - 1; last >= 0 {
			if l.groups[last].n--; l.groups[last].n == 0 {
				l.groups = l.groups[:last]
			}
		}
	}
}

// first is whether a refusal that was found elsewhere is the first within its window.
func (m *memory) first(subject Subject, r Rule, now time.Duration) bool {
	s := m.shard(subject.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(subject.ID)
	first := e.log(r.Name).tell(now, r.Window)
	s.place(e, true, now)
	return first
}

// size returns how many subjects are counted, in about how many bytes, and how many have been
// forgotten for want of room.
func (m *memory) size() (entries, bytes, evicted int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		entries += len(s.entries)
		bytes += s.kept.bytes + s.passing.bytes
		evicted += s.evicted
		s.mu.Unlock()
	}
	return entries, bytes, evicted
}

func (s *shard) entry(subject string) *entry {
	e, ok := s.entries[subject]
	if !ok {
		e = &entry{subject: subject}
		s.entries[subject] = e
	}
	return e
}

// place puts an entry in front of where it belongs and makes room. Each time it also lets go
// of the last ones if they count nothing any more: so nothing outlives its window for long
// while there are calls, and no goroutine has to look.
func (s *shard) place(e *entry, kept bool, now time.Duration) {
	if e.in != nil {
		e.in.remove(e)
	}
	e.bytes = entryBytes + len(e.subject)
	for _, l := range e.logs {
		e.bytes += logBytes + groupBytes*cap(l.groups)
	}
	if kept {
		s.kept.push(e)
	} else {
		s.passing.push(e)
	}
	for _, in := range []*list{&s.kept, &s.passing} {
		for range 2 {
			if in.last != nil && in.last != e && in.last.expires <= now {
				s.drop(in.last)
			}
		}
	}
	for s.kept.bytes > s.most/100*keptShare && s.kept.last != s.kept.front {
		oldest := s.kept.last
		s.kept.remove(oldest)
		s.passing.push(oldest)
	}
	for s.kept.bytes+s.passing.bytes > s.most {
		from := &s.passing
		if from.last == nil {
			from = &s.kept
		}
		if from.last == e {
			return // a bound too small for one is no bound
		}
		s.drop(from.last)
		s.evicted++
	}
}

func (s *shard) drop(e *entry) {
	e.in.remove(e)
	delete(s.entries, e.subject)
}

func (e *entry) log(rule string) *log {
	for i := range e.logs {
		if e.logs[i].rule == rule {
			return &e.logs[i]
		}
	}
	e.logs = append(e.logs, log{rule: rule})
	return &e.logs[len(e.logs)-1]
}

func (l *log) forget(now, window time.Duration) {
	gone := 0
	for gone < len(l.groups) && l.groups[gone].last+window <= now {
		gone++
	}
	l.groups = append(l.groups[:0], l.groups[gone:]...)
}

func (l *log) used() (n int) {
	for _, g := range l.groups {
		n += int(g.n)
	}
	return n
}

func (l *log) add(now, width time.Duration) {
	if end := len(l.groups) - 1; end >= 0 && now-l.groups[end].first < width {
		l.groups[end].last = now
		l.groups[end].n++
		return
	}
	l.groups = append(l.groups, group{first: now, last: now, n: 1})
}

// room is how long until the rule has room; zero if it has.
func (l *log) room(r Rule, now time.Duration) (wait time.Duration) {
	n := l.used()
	for _, g := range l.groups {
		if n < r.Limit {
			break
		}
		n -= int(g.n)
		wait = g.last + r.Window - now
	}
	return wait
}

func (l *log) tell(now, window time.Duration) bool {
	if now < l.told {
		return false
	}
	l.told = now + window
	return true
}

// list is a list of entries, the latest in front.
type list struct {
	front, last *entry
	bytes       int
}

func (l *list) push(e *entry) {
	e.in, e.prev, e.next = l, nil, l.front
	if l.front != nil {
		l.front.prev = e
	} else {
		l.last = e
	}
	l.front = e
	l.bytes += e.bytes
}

func (l *list) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.front = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.last = e.prev
	}
	l.bytes -= e.bytes
	e.in, e.prev, e.next = nil, nil, nil
}
