package ingest

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
)

func TestPreferredWait(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"":                              0,
		"wait=5":                        5 * time.Second,
		`WAIT = "3"`:                    3 * time.Second,
		"respond-async, wait=2; foo=1":  2 * time.Second,
		"wait=10":                       10 * time.Second,
		"wait=3600":                     10 * time.Second,
		"wait=0":                        0,
		"wait=-1":                       0,
		"wait=soon":                     0,
		"wait=99999999999999999999":     0,
		"handling=lenient, return=none": 0,
	} {
		if got := preferredWait(&header); got != want {
			t.Errorf("%q: got %v, want %v", header, got, want)
		}
	}
	if preferredWait(nil) != 0 {
		t.Error("no header is a wait")
	}
}

// A cursor is a stranger's bytes: a time that Postgres cannot hold is the caller's fault.
func TestCursorOutOfTime(t *testing.T) {
	t.Parallel()
	of := func(at int64) *string {
		raw := binary.BigEndian.AppendUint64(nil, uint64(at))
		cursor := base64.RawURLEncoding.EncodeToString(append(raw, make([]byte, 16)...))
		return &cursor
	}
	for name, at := range map[string]int64{"after all": math.MaxInt64, "before all": math.MinInt64, "year 0": -62135596800000001} {
		if _, err := pageOf(of(at), nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want an invalid request", name, err)
		}
	}
	if p, err := pageOf(of(1), nil); err != nil || !p.at.Equal(time.UnixMicro(1)) {
		t.Errorf("got %v, %v", p.at, err)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	t.Parallel()
	r := newRecent[int, string](2)
	r.put(1, "a")
	r.put(2, "b")
	r.put(1, "A") // known: takes no room
	r.put(3, "c")
	if _, ok := r.get(1); ok {
		t.Error("the oldest is still there")
	}
	if v, _ := r.get(2); v != "b" {
		t.Errorf("got %q", v)
	}
	if len(r.byKey) != 2 || len(r.order) != 2 {
		t.Errorf("%d keys in %d places", len(r.byKey), len(r.order))
	}
}

func TestHeadersFromStrangers(t *testing.T) {
	t.Parallel()
	for id, kept := range map[string]bool{
		"abc-1": true, "": false, "a b": false, "a\x7f": false, strings.Repeat("x", 129): false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Request-Id"] = []string{id}
		if got := requestID(r); (got == id) != kept || got == "" {
			t.Errorf("request id %q: got %q", id, got)
		}
	}
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for header, want := range map[string]string{
		good: good, "": "", "00-x": "", strings.ToUpper(good): "", strings.Replace(good, "-b", "xb", 1): "",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("traceparent", header)
		if got := traceparent(r); got != want {
			t.Errorf("traceparent %q: got %q", header, got)
		}
	}
}

func TestWakingReachesOnlyTheWaitersOfACommand(t *testing.T) {
	t.Parallel()
	o := newOutcomes(nil)
	one, two := uuid.New(), uuid.New()
	a, b, other := o.register(one), o.register(one), o.register(two)
	o.onEvent(contract.Event{CommandID: one})
	o.onEvent(contract.Event{CommandID: one}) // a second event of the command does not block
	if len(a.wake) != 1 || len(b.wake) != 1 || len(other.wake) != 0 {
		t.Errorf("woken: %d, %d, %d", len(a.wake), len(b.wake), len(other.wake))
	}
	o.unregister(a)
	o.unregister(b)
	o.unregister(other)
	if len(o.waiters) != 0 {
		t.Errorf("%d commands are still waited for", len(o.waiters))
	}
}

func TestDocumentIsValid(t *testing.T) {
	t.Parallel()
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.spec.Validate(t.Context()); err != nil {
		t.Error(err)
	}
}
