package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/realtime/realtimetest"
)

// What keeps somebody from being asked, or closes what was asked, is not told (G9): one
// person's whole traffic with another, byte by byte, is the same whatever the reason. Each
// way has two people of its own, with the same names; what differs between any two calls is
// taken out: times, and ids, which are numbered as they first appear.
func TestReasonsAreNotTold(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for name, test := range map[string]struct {
		before func(eve, target *person)                     // the same for every way
		ways   map[string]func(*testing.T, *person, *person) // what the target does, and Eve must not know
	}{
		"strangers": {
			before: func(*person, *person) {},
			ways: map[string]func(*testing.T, *person, *person){
				"full":            fill,
				"blocks":          blocks,
				"blocked before":  func(t *testing.T, eve, target *person) { blocks(t, eve, target); unblocks(t, eve, target) },
				"full and blocks": func(t *testing.T, eve, target *person) { fill(t, eve, target); blocks(t, eve, target) },
			},
		},
		"a request of hers waits": {
			before: func(eve, target *person) { eve.ask(target).want(200) },
			ways:   map[string]func(*testing.T, *person, *person){"full": fill, "blocks": blocks},
		},
		"she has not seen their request": {
			before: func(eve, target *person) { target.ask(eve).want(200) },
			ways:   map[string]func(*testing.T, *person, *person){"full": fill, "blocks": blocks},
		},
		"she was declined and has not seen it": {
			before: func(eve, target *person) {
				request := eve.ask(target).want(200).text("requestId")
				target.call("PUT", partners+"/request/"+request+"/reject", nil).want(200)
			},
			ways: map[string]func(*testing.T, *person, *person){"full": fill, "blocks": blocks},
		},
		"partners": {
			before: func(eve, target *person) {
				eve.marry(target)
				target.call("PATCH", "/api/profile", map[string]any{"theme": "sky"}).want(200)
				target.call("POST", partners+"/breakup", map[string]any{"reason": "secret"}).want(200)
			},
			ways: map[string]func(*testing.T, *person, *person){
				"quiet leave":         leaves,
				"blocks":              blocks,
				"leaves, then blocks": func(t *testing.T, eve, target *person) { leaves(t, eve, target); blocks(t, eve, target) },
				"leaves, then fills":  func(t *testing.T, eve, target *person) { leaves(t, eve, target); fill(t, eve, target) },
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			views := map[string]string{}
			for _, way := range slices.Sorted(maps.Keys(test.ways)) {
				eve, target := w.person(t, "Eve"), w.person(t, "Target")
				socket := eve.socket()
				test.before(eve, target)
				test.ways[way](t, eve, target)
				views[way] = eve.view(socket, target)
			}
			first := slices.Min(slices.Collect(maps.Keys(views)))
			for way, view := range views {
				if diff := cmp.Diff(strings.Split(views[first], "\n"), strings.Split(view, "\n")); diff != "" {
					t.Errorf("-%s +%s\n%s", first, way, diff)
				}
			}
		})
	}
}

func blocks(_ *testing.T, eve, target *person) {
	target.call("PUT", partners+"/blocks/"+eve.id.String(), nil).want(200)
}

func unblocks(_ *testing.T, eve, target *person) {
	target.call("DELETE", partners+"/blocks/"+eve.id.String(), nil).want(200)
}

func leaves(_ *testing.T, _, target *person) {
	target.call("POST", partners+"/remove", map[string]any{"quiet": true}).want(200)
}

// fill takes the target's last slot; what of Eve's that closes, closes soon after.
func fill(t *testing.T, eve, target *person) {
	target.marry(target.in.person(t, "Other"))
	until(t, "requests to close", func() bool {
		return len(eve.get(partners+"/requests?status=pending").want(200).list("requests")) == 0
	})
}

func (p *person) socket() *realtimetest.Conn {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := realtimetest.Dial(ctx, "ws"+strings.TrimPrefix(p.in.url, "http")+"/api/realtime",
		realtimetest.Options{Token: p.token, After: realtimetest.After(0)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// view is all that a person can find out about another: answers as they came, whole.
func (p *person) view(socket *realtimetest.Conn, of *person) string {
	p.t.Helper()
	var all strings.Builder
	tell := func(r reply) reply {
		header := maps.Clone(r.header)
		for _, name := range []string{"Date", "Content-Length", "Ratelimit-Remaining", "Ratelimit-Reset"} {
			delete(header, name)
		}
		// An ETag is made of the caller's id and state: that there is one is what shows.
		for _, name := range []string{"X-Request-Id", "Etag"} {
			if _, ok := header[name]; ok {
				header.Set(name, "…")
			}
		}
		// A problem's request id is no UUID.
		body := string(r.raw)
		if id := r.text("requestId"); r.status >= 400 && id != "" {
			body = strings.ReplaceAll(body, id, "…")
		}
		fmt.Fprintf(&all, "%s\n%d\n%v\n%s\n", r.what, r.status, header, body)
		return r
	}
	tell(p.get(partners + "/search?code=" + of.code))
	accepted := tell(p.async("POST", partners+"/request", map[string]any{"toUserId": of.id}).want(202))
	command := "/api/commands/" + accepted.text("commandId")
	until(p.t, "the command's outcome", func() bool {
		r := p.get(command)
		return r.status == http.StatusOK && r.text("status") != "accepted"
	})
	tell(p.get(command))
	refused := tell(p.call("POST", partners+"/request", map[string]any{"partnerCode": of.code}))
	tell(p.get("/api/commands/" + refused.text("commandId")))
	tell(p.get(partners + "/search?code=" + of.code))
	for _, path := range []string{
		partners + "/current", partners + "/partners", partners + "/slots", partners + "/history", partners + "/restorable",
		partners + "/requests", partners + "/requests?direction=sent&status=superseded", partners + "/requests?direction=received",
		partners + "/blocks", partners + "/breakup-status", "/api/nicknames", "/api/activity", "/api/sync",
	} {
		tell(p.get(path))
	}
	inbox := tell(p.get("/api/notifications?limit=100"))
	last := int64(len(inbox.list("events")))
	p.frames(&all, "resumed", p.socket(), last, true)
	// What was shown before the ending may be there or not: when it came is not the point.
	p.frames(&all, "live", socket, last, false)
	return p.plain(all.String())
}

// frames writes what a socket was sent up to an entry.
func (p *person) frames(to *strings.Builder, name string, conn *realtimetest.Conn, last int64, contents bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 15*time.Second)
	defer cancel()
	for {
		f, err := conn.NextOp(ctx, "event")
		if err != nil {
			p.t.Fatal(err)
		}
		line := f.ID.String()
		if contents {
			raw, err := json.Marshal(f)
			if err != nil {
				p.t.Fatal(err)
			}
			line = string(raw)
		}
		fmt.Fprintln(to, name, f.Seq, line)
		if f.Seq >= last {
			return
		}
	}
}

var anyCodeIn = regexp.MustCompile(`code=[0-9A-HJKMNP-TV-Z]{10}`)

// plain takes out what differs between any two.
func (p *person) plain(text string) string {
	numbers := map[string]string{}
	text = anyID.ReplaceAllStringFunc(text, func(id string) string {
		if numbers[id] == "" {
			numbers[id] = fmt.Sprintf("id-%d", len(numbers)+1)
		}
		return numbers[id]
	})
	return anyCodeIn.ReplaceAllString(anyCode.ReplaceAllString(anyTime.ReplaceAllString(text, "time"), `"code"`), "code=…")
}

// async calls without waiting for the outcome.
func (p *person) async(method, path string, body any) reply {
	p.t.Helper()
	return p.callWith(method, path, body, nil)
}
