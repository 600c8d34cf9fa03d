package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// standing is a clock that stands until a test moves it.
type standing struct {
	mu sync.Mutex
	at time.Time
}

func (c *standing) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *standing) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// At the last instant of a month, and a second later, people say over HTTP what is only
// possible until then. Nobody applies it for an hour, and the timers are due meanwhile. What
// counts is when ingest accepted it.
func TestLastInstantsOverHTTP(t *testing.T) {
	t.Parallel()
	kafkatest.Both(t, lastInstants)
}

func lastInstants(t *testing.T, broker *kafkatest.Broker) {
	const day = 24 * time.Hour
	prefix := kafkatest.Prefix(t)
	environ := []string{
		"KAFKA_BROKERS=" + strings.Join(broker.Brokers(), ","), "KAFKA_TOPIC_PREFIX=" + prefix, "KAFKA_SESSION_TIMEOUT=6s",
		"DATABASE_URL=" + postgrestest.NewURL(t), "DATABASE_MAX_CONNS=10", "DATABASE_MIN_CONNS=1", "DATA_DIR=" + t.TempDir(),
		"ADMIN_PORT=0", "ADMIN_HOST=127.0.0.1", "RATE_LIMITS=off",
	}
	if err := run(t.Context(), []string{"topics", "apply"}, terminal{environ: environ, stdout: io.Discard, stderr: io.Discard}); err != nil {
		t.Fatal(err)
	}
	broker.AllowAhead(t, contract.NewTopics(prefix).Specs(12), 60*day)
	begin := time.Now().UTC().Truncate(time.Microsecond)
	end := begin.Add(30 * day)
	clock := &standing{at: begin}
	w := &town{url: startRole(t, "ingest", clock.now, environ).url, router: operations(t)}
	processor := startRole(t, "processor", clock.now, environ)

	// Of each kind two couples: one of them is a second late.
	type couple struct{ asks, answers *person }
	couples := func() (list [2]couple) {
		for i := range list {
			list[i] = couple{w.person(t, "Ana"), w.person(t, "Ben")}
		}
		return list
	}
	requests, restorations, breakups := couples(), couples(), couples()
	for i := range 2 {
		restorations[i].asks.marry(restorations[i].answers)
		restorations[i].asks.call("POST", partners+"/remove", nil).want(200)
		breakups[i].asks.marry(breakups[i].answers)
	}
	var request, again, breakup [2]string
	clock.set(end.Add(-7 * day))
	for i := range 2 {
		requests[i].asks.login()
		request[i] = requests[i].asks.ask(requests[i].answers).want(200).text("requestId")
		breakups[i].asks.login()
		breakup[i] = breakups[i].asks.call("POST", partners+"/breakup", nil).want(200).text("result", "breakupId")
	}
	clock.set(end.Add(-day))
	for i := range 2 {
		restorations[i].asks.login()
		again[i] = restorations[i].asks.ask(restorations[i].answers).want(200).text("requestId")
	}
	if err := processor.stop(); err != nil {
		t.Fatal(err)
	}

	type said struct {
		by      *person
		command string
	}
	var all [2]map[string]said
	for i, late := range []time.Duration{0, time.Second} {
		clock.set(end.Add(late))
		say := func(by *person, method, path string) said {
			by.login()
			return said{by, by.callWith(method, path, nil, nil).want(202).text("commandId")}
		}
		all[i] = map[string]said{
			"request":     say(requests[i].answers, "PUT", partners+"/request/"+request[i]+"/accept"),
			"restoration": say(restorations[i].answers, "PUT", partners+"/request/"+again[i]+"/accept"),
			"breakup":     say(breakups[i].asks, "DELETE", partners+"/breakup/"+breakup[i]),
		}
	}
	clock.set(end.Add(time.Hour))
	startRole(t, "processor", clock.now, environ)

	want := [2]map[string]string{
		{"request": "applied", "restoration": "applied, restored", "breakup": "applied, partners"},
		{"request": "rejected not_pending", "restoration": "applied, anew", "breakup": "rejected not_pending, parted"},
	}
	var got [2]map[string]string
	for i := range all {
		got[i] = map[string]string{}
		for kind, s := range all[i] {
			s.by.login()
			var r reply
			until(t, "the outcome of "+kind, func() bool {
				r = s.by.get("/api/commands/" + s.command)
				return r.status == http.StatusOK && (r.text("status") == "applied" || r.text("status") == "rejected")
			})
			got[i][kind] = strings.TrimSpace(r.text("status") + " " + r.text("code"))
			switch kind {
			case "restoration":
				if r.text("result", "partnershipId") == restorations[i].asks.partnershipID {
					got[i][kind] += ", restored"
				} else {
					got[i][kind] += ", anew"
				}
			case "breakup":
				if s.by.get(partners + "/current").body["partner"] != nil {
					got[i][kind] += ", partners"
				} else {
					got[i][kind] += ", parted"
				}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("at the last instant, and a second after (-want +got):\n%s", diff)
	}
}

// login signs in anew: a clock that was moved has ended the access token.
func (p *person) login() {
	p.t.Helper()
	p.token = p.call("POST", "/api/auth/login", map[string]any{"email": p.email, "password": secret}).want(200).text("accessToken")
}
