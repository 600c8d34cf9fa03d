// Package cachetest holds what a cache of reads must never do, over the API, whatever runs
// behind it: show something other than what is so now, or less than was told already. A test
// brings up a deployment and runs the check on it.
//
// The truth is an instance without a cache. While two people change all that the cached reads
// show of them, by commands, by settings and through an operator, and part and come together
// again, others read: what an instance with a cache answers between two equal answers of the
// truth has to be that answer, and its sequence may not be below what a socket had told before.
package cachetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// Deployment is what runs.
type Deployment struct {
	Cached  []*phone.Server // ingest instances with a cache
	Truth   *phone.Server   // one without
	Sockets *phone.Server
	// SetTier changes what a user pays for, as an operator does.
	SetTier func(user uuid.UUID, tier string) error
}

const (
	partners = "/api/enhanced-partners"
	// changes is how many a check makes.
	changes = 60
	// patience bounds a check: much longer than it takes.
	patience = 3 * time.Minute
)

// Paths are the reads whose answers are cached.
func Paths() []string {
	return []string{"/api/profile", partners + "/current", partners + "/partners", partners + "/slots"}
}

// person is somebody, with how much a socket of theirs was told.
type person struct {
	*phone.Phone
	told atomic.Int64
}

// at is the same person, speaking to another instance.
func (p *person) at(s *phone.Server) *phone.Phone {
	other := *p.Phone
	other.Server = s
	return &other
}

// Run runs the check; TEST_SEED repeats one. It returns how many reads it compared.
func Run(t *testing.T, d Deployment) (compared int64) {
	t.Helper()
	seed := rand.Uint64()
	if given, err := strconv.ParseUint(os.Getenv("TEST_SEED"), 10, 64); err == nil {
		seed = given
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	t.Logf("TEST_SEED=%d", seed)
	var people [2]*person
	for i, name := range []string{"Ada", "Ben"} {
		p, err := d.Truth.Register(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		people[i] = &person{Phone: p}
	}
	w := writer{d: d, people: people, random: rand.New(rand.NewPCG(seed, 1))}
	if err := w.marry(ctx); err != nil {
		t.Fatal(err)
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var n atomic.Int64
	readers, reading := errgroup.WithContext(reading)
	for i, p := range people {
		readers.Go(func() error { return p.listen(reading, d.Sockets) })
		for j, s := range d.Cached {
			r := reader{d: d, p: p, cached: s, n: &n, kept: map[string]kept{}, random: rand.New(rand.NewPCG(seed, uint64(2+10*i+j)))}
			readers.Go(func() error { return r.run(reading) })
		}
	}
	err := w.run(reading)
	stop()
	if failed := readers.Wait(); failed != nil && !errors.Is(failed, context.Canceled) {
		t.Fatal(failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n.Load()
}

// listen notes what a socket tells.
func (p *person) listen(ctx context.Context, s *phone.Server) error {
	conn, err := realtimetest.Dial(ctx, "ws"+strings.TrimPrefix(s.URL, "http")+"/api/realtime", realtimetest.Options{
		Token: p.AccessToken, After: realtimetest.After(0),
	})
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer func() { _ = conn.Close() }()
	for {
		frame, err := conn.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("read socket: %w", err)
		case frame.Op == "event":
			p.told.Store(frame.Seq)
		}
	}
}

// kept is an answer with its ETag.
type kept struct {
	tag  string
	body []byte
}

// reader compares an instance with the truth.
type reader struct {
	d      Deployment
	p      *person
	cached *phone.Server
	n      *atomic.Int64
	random *rand.Rand
	kept   map[string]kept // by path, as an app's HTTP client keeps it
}

func (r *reader) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.compare(ctx, Paths()[r.random.IntN(len(Paths()))]); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return ctx.Err()
}

// compare reads once in between of two reads of the truth. When nothing changed meanwhile
// the answers have to be the same.
func (r *reader) compare(ctx context.Context, path string) error {
	told := r.p.told.Load()
	before, _, err := r.truth(ctx, path)
	if err != nil {
		return err
	}
	got, err := r.read(ctx, path)
	if err != nil {
		return err
	}
	after, want, err := r.truth(ctx, path)
	if err != nil {
		return err
	}
	if bytes.Equal(before, after) {
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s at %s: got %s, want %s", path, r.cached.URL, got, want)
		}
		r.n.Add(1)
	}
	var body struct {
		Seq *int64 `json:"seq"`
	}
	if err := json.Unmarshal(got, &body); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, got)
	}
	if body.Seq != nil && *body.Seq < told {
		return fmt.Errorf("%s at %s: it is of sequence %d, and a socket had told %d", path, r.cached.URL, *body.Seq, told)
	}
	return nil
}

// read reads from the cache, half of the time as a client that has the answer before.
func (r *reader) read(ctx context.Context, path string) ([]byte, error) {
	had, ask := r.kept[path], r.random.IntN(2) == 0
	got, err := r.p.at(r.cached).Do(ctx, http.MethodGet, path, nil, func(h http.Header) {
		if ask && had.tag != "" {
			h.Set("If-None-Match", had.tag)
		}
	})
	switch {
	case err != nil:
		return nil, err
	case got.Status == http.StatusOK:
		r.kept[path] = kept{got.Header.Get("ETag"), got.Body}
		return got.Body, nil
	case got.Status == http.StatusNotModified && ask:
		return had.body, nil
	default:
		return nil, fmt.Errorf("%s at %s: status %d: %s", path, r.cached.URL, got.Status, got.Body)
	}
}

// truth is an answer, and the same with the profile before it, whose sequence moves with every
// event: two that are equal have nothing between them, whatever the answer itself shows.
func (r *reader) truth(ctx context.Context, path string) (both, body []byte, err error) {
	for _, p := range []string{"/api/profile", path} {
		answer, err := r.p.at(r.d.Truth).Do(ctx, http.MethodGet, p, nil)
		if err != nil {
			return nil, nil, err
		}
		if answer.Status != http.StatusOK {
			return nil, nil, fmt.Errorf("%s without a cache: status %d: %s", p, answer.Status, answer.Body)
		}
		both, body = append(both, answer.Body...), answer.Body
	}
	return both, body, nil
}

// writer changes what the reads show.
type writer struct {
	d      Deployment
	people [2]*person
	random *rand.Rand
}

func (w *writer) run(ctx context.Context) error {
	for i := range changes {
		if err := w.change(ctx, i); err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
	}
	return nil
}

func (w *writer) marry(ctx context.Context) error {
	sent, err := w.people[0].Send(ctx, w.people[1].UserID, phone.Wait(10))
	if err != nil || sent.Status != http.StatusOK {
		return fmt.Errorf("send: %d %s: %w", sent.Status, sent.Body, err)
	}
	accepted, err := w.people[1].Accept(ctx, sent.Outcome().RequestID, phone.Wait(10))
	if err != nil || accepted.Status != http.StatusOK {
		return fmt.Errorf("accept: %d %s: %w", accepted.Status, accepted.Body, err)
	}
	return nil
}

// change makes one change and, since a user reads their own writes, has whoever made it look
// at every instance: what was true before it has to be gone.
func (w *writer) change(ctx context.Context, i int) error {
	a := w.random.IntN(2)
	who, other := w.people[a], w.people[1-a]
	at := who.at(w.d.Cached[w.random.IntN(len(w.d.Cached))])
	call := func(method, path string, body any) error {
		answer, err := at.Do(ctx, method, path, body, phone.Wait(10))
		if err == nil && answer.Status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", answer.Status, answer.Body)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		return nil
	}
	text := fmt.Sprintf("nr %d", i)
	switch w.random.IntN(8) {
	case 0, 1:
		if err := call(http.MethodPatch, "/api/profile", map[string]any{"displayName": text}); err != nil {
			return err
		}
		return w.shows(ctx, text, map[*person]string{who: "/api/profile", other: partners + "/current"})
	case 2:
		return call(http.MethodPatch, "/api/profile", map[string]any{"theme": "custom", "themeEntries": map[string]string{"a": text}})
	case 3:
		if err := call(http.MethodPost, "/api/nicknames", map[string]any{"targetUserId": other.UserID, "nickname": text}); err != nil {
			return err
		}
		return w.shows(ctx, text, map[*person]string{who: partners + "/partners"})
	case 4:
		preview := []string{"full", "discreet"}[w.random.IntN(2)]
		if err := call(http.MethodPut, "/api/notifications/preferences", map[string]any{"preview": preview}); err != nil {
			return err
		}
		return w.shows(ctx, `"preview":"`+preview+`"`, map[*person]string{who: "/api/profile"})
	case 5:
		tier := []string{"free", "premium"}[w.random.IntN(2)]
		if err := w.d.SetTier(who.UserID, tier); err != nil {
			return err
		}
		return w.shows(ctx, `"tier":"`+tier+`"`, map[*person]string{who: "/api/profile"})
	case 6:
		return call(http.MethodPost, "/api/profile/partner-code", nil)
	default:
		if err := call(http.MethodPost, partners+"/remove", map[string]any{}); err != nil {
			return err
		}
		if err := w.shows(ctx, `"partner":null`, map[*person]string{who: partners + "/current", other: partners + "/current"}); err != nil {
			return err
		}
		return w.marry(ctx)
	}
}

// shows reads once from every instance.
func (w *writer) shows(ctx context.Context, text string, where map[*person]string) error {
	for p, path := range where {
		for _, s := range w.d.Cached {
			answer, err := p.at(s).Do(ctx, http.MethodGet, path, nil)
			if err != nil {
				return err
			}
			if !strings.Contains(string(answer.Body), text) {
				return fmt.Errorf("%s at %s does not show %s, which is so: %d %s", path, s.URL, text, answer.Status, answer.Body)
			}
		}
	}
	return nil
}
