package main

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// city is a town whose servers a test can get at.
type city struct {
	*town
	t      *testing.T
	spec   *openapi3.T
	broker *kafkatest.Broker
	bus    *bus.Client
	db     *pgxpool.Pool
}

func newCity(t *testing.T, environ ...string) *city {
	t.Helper()
	broker := kafkatest.Embedded(t)
	w := newTown(t, append(environ, "KAFKA_BROKERS="+strings.Join(broker.Brokers(), ","))...)
	db, err := pgxpool.New(t.Context(), address(t, w.dir, "postgres.dsn"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return &city{town: w, t: t, spec: document(t), broker: broker, bus: broker.Client(t), db: db}
}

func (w *city) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := w.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// held runs do while a statement of an open transaction holds its locks.
func (w *city) held(t *testing.T, sql string, do func()) {
	t.Helper()
	tx, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	do()
}

// eventually polls until the condition holds.
func (w *city) eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// queue writes a command as it would stand in the log, changed at will.
func (w *city) queue(t *testing.T, cmd partner.Command, change func(*contract.Record)) {
	t.Helper()
	rec, err := contract.EncodeCommand(contract.NewTopics(contract.DefaultPrefix), contract.DefaultPartitions, cmd, "")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&rec)
	}
	if err := w.bus.Write(t.Context(), []contract.Record{rec}); err != nil {
		t.Fatal(err)
	}
}

func sendCommand(from, to *person) partner.Command {
	return partner.Command{
		ID: uuid.Must(uuid.NewV7()), Type: partner.Send, Issuer: from.id, Pair: partner.PairOf(from.id, to.id),
		AcceptedAt: time.Now().UTC().Truncate(time.Microsecond),
	}
}

// outcome waits until a command has one.
func (p *person) outcome(command string) (r reply) {
	p.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for ; r.text("status") == "" || r.text("status") == "accepted"; time.Sleep(20 * time.Millisecond) {
		if r = p.get("/api/commands/" + command); time.Now().After(deadline) {
			p.t.Fatalf("no outcome: %s", r)
		}
	}
	return r
}

// unknown makes a record of a type that this program does not know, as a newer one writes.
func unknown(rec *contract.Record) {
	kind := []byte(rec.Header("ce_type"))
	rec.Value = bytes.Replace(rec.Value, kind, []byte("request.hug"), 1)
	for i := range rec.Headers {
		if rec.Headers[i].Key == "ce_type" {
			rec.Headers[i].Value = []byte("request.hug")
		}
	}
}

// scenario does what ends in an answer with the code for which it stands: a problem, or a
// command's outcome where the call was answered long before.
type scenario func(*testing.T, *city) reply

// scenarios has one for each code. Those in the second part are for one at a time: they
// take away from everybody what they are about.
func scenarios() (together, alone map[string]scenario) {
	together = map[string]scenario{
		"invalid_request": func(t *testing.T, w *city) reply { return w.person(t, "Ana").call("POST", partners+"/request", "{") },
		"unauthenticated": func(t *testing.T, w *city) reply {
			return (&person{t: t, in: w.town, name: "nobody"}).get("/api/profile")
		},
		"token_expired": func(t *testing.T, w *city) reply {
			ana := w.person(t, "Ana")
			keys, err := identity.LoadOrCreateDevelopmentKeys(w.dir)
			if err != nil {
				t.Fatal(err)
			}
			issuer, err := identity.NewIssuer(identity.IssuerConfig{
				Keys: keys, Issuer: tokenIssuer, Audience: tokenAudience, Clock: func() time.Time { return time.Now().Add(-time.Hour) },
			})
			if err != nil {
				t.Fatal(err)
			}
			if ana.token, _, err = issuer.Issue(identity.Claims{UserID: ana.id, SessionID: uuid.New(), Role: identity.RoleUser}); err != nil {
				t.Fatal(err)
			}
			return ana.get("/api/profile")
		},
		"forbidden": func(t *testing.T, w *city) reply {
			ana := w.person(t, "Ana")
			w.exec(t, `UPDATE users SET status = $2 WHERE id = $1`, ana.id, partner.UserSuspended)
			return ana.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret})
		},
		"not_found": func(t *testing.T, w *city) reply { return w.person(t, "Ana").get("/api/commands/" + uuid.NewString()) },
		"not_pending": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			request := partners + "/request/" + ana.ask(ben).want(200).text("requestId")
			ana.call("DELETE", request, nil).want(200)
			return ben.call("PUT", request+"/accept", nil)
		},
		"not_current": func(t *testing.T, w *city) reply { return w.person(t, "Ana").call("POST", partners+"/remove", nil) },
		"self_request": func(t *testing.T, w *city) reply {
			ana := w.person(t, "Ana")
			return ana.ask(ana)
		},
		"user_not_found": func(t *testing.T, w *city) reply { return w.person(t, "Ana").ask(&person{id: uuid.New()}) },
		"already_partners": func(t *testing.T, w *city) reply {
			ana, ben := w.couple(t, "Ana", "Ben")
			return ana.ask(ben)
		},
		"request_pending": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			ana.ask(ben).want(200)
			return ana.ask(ben)
		},
		"no_vacant_slot": func(t *testing.T, w *city) reply {
			ana, _ := w.couple(t, "Ana", "Ben")
			return ana.ask(w.person(t, "Eve"))
		},
		"blocked_by_you": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			ana.call("PUT", partners+"/blocks/"+ben.id.String(), nil).want(200)
			return ana.ask(ben)
		},
		"target_unavailable": func(t *testing.T, w *city) reply {
			ana, _ := w.couple(t, "Ana", "Ben")
			return w.person(t, "Eve").ask(ana)
		},
		"cooldown": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			ben.call("PUT", partners+"/request/"+ana.ask(ben).want(200).text("requestId")+"/reject", nil).want(200)
			return ana.ask(ben)
		},
		"account_deleting": func(t *testing.T, w *city) reply {
			// It lasts a moment only, until the account is erased: so the state is set here.
			ana := w.person(t, "Ana")
			w.exec(t, `UPDATE users SET status = $2 WHERE id = $1`, ana.id, partner.UserDeleting)
			return ana.call("POST", "/api/auth/login", map[string]any{"email": ana.email, "password": secret})
		},
		"email_taken": func(t *testing.T, w *city) reply {
			ana := w.person(t, "Ana")
			return ana.call("POST", "/api/auth/register", map[string]any{"email": ana.email, "password": secret, "displayName": "Eve"})
		},
		"idempotency_mismatch": func(t *testing.T, w *city) reply {
			ana, ben, eve := w.person(t, "Ana"), w.person(t, "Ben"), w.person(t, "Eve")
			key := http.Header{"Idempotency-Key": {"once"}, "Prefer": {"wait=10"}}
			ana.callWith("POST", partners+"/request", map[string]any{"toUserId": ben.id}, key).want(200)
			return ana.callWith("POST", partners+"/request", map[string]any{"toUserId": eve.id}, key)
		},
		"resync": func(t *testing.T, w *city) reply { return w.person(t, "Ana").get("/api/notifications?after=1000") },
		"method_not_allowed": func(t *testing.T, w *city) reply {
			return w.person(t, "Ana").call("DELETE", "/api/profile", nil)
		},
		"unsupported_media_type": func(t *testing.T, w *city) reply {
			return w.person(t, "Ana").callWith("POST", partners+"/request", "toUserId=1", http.Header{"Content-Type": {"text/plain"}})
		},
		"payload_too_large": func(t *testing.T, w *city) reply {
			return w.person(t, "Ana").call("POST", partners+"/request", strings.Repeat(" ", 64<<10+1))
		},
		"rate_limited": func(t *testing.T, w *city) (r reply) {
			ana := w.person(t, "Ana")
			for i := 0; i < 20 && r.status != http.StatusTooManyRequests; i++ { // their waits may pass on a slow machine
				r = ana.call("POST", "/api/auth/password", map[string]any{"current": "a wrong one", "next": "another pass phrase"})
			}
			return r
		},
		"upgrade_required": func(t *testing.T, w *city) reply { return w.person(t, "Ana").get("/api/realtime") },
		"stale": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			late := sendCommand(ana, ben)
			late.AcceptedAt = late.AcceptedAt.Add(-time.Minute)
			w.queue(t, late, nil)
			return ana.outcome(late.ID.String())
		},
		"superseded_by_leave": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			w.queue(t, sendCommand(ben, ana), unknown)
			behind := ana.callWith("POST", partners+"/request", map[string]any{"toUserId": ben.id}, nil).want(202).text("commandId")
			ben.call("PUT", partners+"/blocks/"+ana.id.String(), nil).want(200)
			return ana.outcome(behind)
		},
		"not_replayable": func(t *testing.T, w *city) reply {
			ana, ben, boss := w.person(t, "Ana"), w.person(t, "Ben"), w.operator(t)
			var key string
			w.queue(t, sendCommand(ana, ben), func(rec *contract.Record) {
				rec.Value, key = rec.Value[1:], string(rec.Key)
			})
			var id string
			w.eventually(t, "the record is a dead letter", func() bool {
				for _, l := range boss.get("/api/ops/dead-letters").want(200).list("deadLetters") {
					if l["key"] == key {
						id = l["id"].(string)
					}
				}
				return id != ""
			})
			return boss.call("POST", "/api/ops/dead-letters/"+id+"/replay", map[string]any{})
		},
		"dropped": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			first := sendCommand(ben, ana)
			w.queue(t, first, unknown)
			behind := ana.callWith("POST", partners+"/request", map[string]any{"toUserId": ben.id}, nil).want(202).text("commandId")
			w.eventually(t, "the command is parked", func() bool {
				tag, err := w.db.Exec(t.Context(), `
					INSERT INTO parked_actions (id, partition, low, high, action, last_offset, requested_by, requested_at)
					SELECT gen_random_uuid(), partition, low, high, 'drop', max(log_offset), 'operator:test', now()
					FROM parked_commands WHERE (low, high) = ($1, $2) GROUP BY partition, low, high HAVING count(*) = 2`,
					first.Pair.Low, first.Pair.High)
				if err != nil {
					t.Fatal(err)
				}
				return tag.RowsAffected() == 1
			})
			return ana.outcome(behind)
		},
	}
	alone = map[string]scenario{
		"internal": func(t *testing.T, w *city) reply { // a table that is not as it should be
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			w.exec(t, `ALTER TABLE reports RENAME TO gone`)
			defer w.exec(t, `ALTER TABLE gone RENAME TO reports`)
			return ana.call("POST", "/api/reports", map[string]any{"targetUserId": ben.id, "reason": "spam"})
		},
		"behind": func(t *testing.T, w *city) (r reply) { // the processor waits for its rows
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			w.held(t, `SELECT FROM processor_partitions FOR UPDATE`, func() {
				ana.callWith("POST", partners+"/request", map[string]any{"toUserId": ben.id}, nil).want(202)
				r = ana.get("/api/commands/" + uuid.NewString())
			})
			return r
		},
		"overloaded": func(t *testing.T, w *city) (r reply) { // exports that take their time
			ana := w.person(t, "Ana")
			replies := make([]reply, 4)
			w.held(t, `LOCK TABLE nicknames IN ACCESS EXCLUSIVE MODE`, func() {
				var all sync.WaitGroup
				for i := range replies {
					all.Go(func() { replies[i] = ana.get("/api/account/export") })
				}
				all.Wait()
			})
			for _, r = range replies {
				if r.text("code") == "overloaded" {
					break
				}
			}
			return r
		},
		"database_unavailable": func(t *testing.T, w *city) (r reply) {
			ana := w.person(t, "Ana")
			without(t, w.db, func() { r = ana.get("/api/profile") })
			return r
		},
		"queue_unavailable": func(t *testing.T, w *city) reply {
			ana, ben := w.person(t, "Ana"), w.person(t, "Ben")
			w.broker.Stop()
			defer w.broker.Start()
			return ana.ask(ben)
		},
	}
	return together, alone
}

// Every code that the document has comes out of a running system, in an answer that is as
// the document says; and the document has every code that comes out.
func TestEveryCodeOfTheDocument(t *testing.T) {
	t.Parallel()
	w := newCity(t)
	together, alone := scenarios()
	t.Run("together", func(t *testing.T) {
		for code, s := range together {
			t.Run(code, func(t *testing.T) {
				t.Parallel()
				w.produces(t, code, s)
			})
		}
	})
	last := "database_unavailable" // its pool takes a while to come back
	for _, code := range append(slices.DeleteFunc(slices.Sorted(maps.Keys(alone)), func(code string) bool { return code == last }), last) {
		t.Run(code, func(t *testing.T) { w.produces(t, code, alone[code]) })
	}
	produced := slices.Sorted(maps.Keys(together))
	produced = append(produced, slices.Collect(maps.Keys(alone))...)
	slices.Sort(produced)
	if diff := cmp.Diff(documentedCodes(t, w.spec), produced); diff != "" {
		t.Errorf("codes (-document +scenarios):\n%s", diff)
	}
}

// produces holds what a scenario ends in against the document, also where the call itself
// is none of the document's.
func (w *city) produces(t *testing.T, code string, s scenario) {
	t.Helper()
	r := s(t, w)
	name, kind := "Problem", "application/problem+json"
	if r.status < 400 {
		name, kind = "Command", "application/json"
	}
	if r.text("code") != code || !strings.HasPrefix(r.header.Get("Content-Type"), kind) {
		t.Errorf("%s with %s, want %s", r, r.header.Get("Content-Type"), code)
	}
	if err := w.spec.Components.Schemas[name].Value.VisitJSON(r.body, openapi3.VisitAsResponse()); err != nil {
		t.Errorf("%s: %v", r, err)
	}
	if r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") == "" {
		t.Errorf("%s: no Retry-After", r)
	}
}
