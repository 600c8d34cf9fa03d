package e2e

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// guarded is a cluster in which each role has a login of its own and the rights that topics
// apply --acls gave it, on an Apache Kafka that lets nobody do anything else.
type guarded struct {
	*cluster
	kafka  kafkatest.Guarded
	prefix string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	prefix := kafkatest.Prefix(t)
	var users []string
	for _, party := range contract.Parties() {
		users = append(users, prefix+"-"+string(party)) // as the default principals
	}
	w := &guarded{kafka: kafkatest.ApacheGuarded(t, users...), prefix: prefix}
	databaseURL := postgrestest.NewURL(t)
	w.cluster = &cluster{
		t: t, pool: connect(t, databaseURL), topics: contract.NewTopics(prefix),
		settings: []string{
			"KAFKA_BROKERS=" + w.kafka.Broker, "KAFKA_TOPIC_PREFIX=" + prefix, "KAFKA_SESSION_TIMEOUT=6s",
			"DATABASE_URL=" + databaseURL, "DATABASE_MAX_CONNS=12", "DATABASE_MIN_CONNS=1", "DATA_DIR=" + t.TempDir(),
		},
	}
	return w
}

func (w *guarded) user(party contract.Party) string { return w.prefix + "-" + string(party) }

// as is how a process logs in.
func (w *guarded) as(user string) []string {
	s := w.kafka.As(user)
	return []string{"KAFKA_SASL_MECHANISM=" + s.Mechanism, "KAFKA_SASL_USERNAME=" + s.Username, "KAFKA_SASL_PASSWORD=" + s.Password}
}

// start starts a role as what it is.
func (w *guarded) start(party contract.Party, settings ...string) *process {
	w.t.Helper()
	return w.role(string(party), append(w.as(w.user(party)), settings...)...)
}

// commandAs runs an operator command with a login.
func (w *guarded) commandAs(user string, args ...string) string {
	w.t.Helper()
	c := *w.cluster
	c.settings = append(slices.Clone(w.settings), w.as(user)...)
	return c.command(args...)
}

// client is a login's own access to Kafka.
func (w *guarded) client(party contract.Party) *bus.Client {
	w.t.Helper()
	c := bus.New(bus.Config{Brokers: []string{w.kafka.Broker}, ClientID: "test", Security: w.kafka.As(w.user(party))}, slog.New(slog.DiscardHandler))
	w.t.Cleanup(c.Close)
	return c
}

// All roles, each with its own login, do all that they do on Kafka: nothing but the rights of
// the plan is needed, from the first command to dead letters and a change of the owner.
func TestEachRoleWithItsOwnRights(t *testing.T) {
	t.Parallel()
	w := newGuarded(t)
	ctx := t.Context()
	granted := w.commandAs(kafkatest.Administrator, "topics", "apply", "--acls")
	if !strings.Contains(granted, "rights granted, 0 taken away") {
		t.Fatalf("apply printed %s", granted)
	}
	if out := w.commandAs(w.user(contract.Operator), "topics", "apply", "--acls"); out != "topics are as they should be\nrights are as they should be\n" {
		t.Errorf("to the operator the brokers look like this:\n%s", out)
	}
	processor := w.start(contract.Processor)
	ingest, realtime := w.start(contract.Ingest), w.start(contract.Realtime)
	notifier := w.start(contract.Notifier, "PUSH_GRACE=0s")
	roles := []*process{processor, ingest, realtime, notifier}

	// POST, commands, transaction, events: to a socket, to a waiting call and to a push.
	phones := people(t, ingest.server(), 2)
	ann, ben := phones[0], phones[1]
	must(t, http.StatusCreated)(ann.Do(ctx, http.MethodPost, "/api/devices", map[string]any{"kind": "fcm", "token": "ann's", "platform": "android"}))
	bens := *ben
	bens.Server = realtime.server()
	socket, err := bens.Connect(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	ok := must(t, http.StatusOK)
	asked := ok(ann.Send(ctx, ben.UserID, phone.Wait(10)))
	waiting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if frame, err := socket.NextOp(waiting, "event"); err != nil || frame.Seq != 1 {
		t.Errorf("the socket: %+v, %v", frame, err)
	}
	ok(ben.Accept(ctx, asked.RequestID, phone.Wait(10)))
	eventually(t, 30*time.Second, "the acceptance is pushed", func() (bool, error) {
		pushed, err := os.ReadFile(filepath.Join(settingOf(w.settings, "DATA_DIR"), "pushes.jsonl"))
		return bytes.Contains(pushed, []byte("ann's")), err
	})

	// Another owner: it joins the group, reads the ends of the log and what lies before.
	processor.stop()
	processor = w.start(contract.Processor)
	roles = append(roles, processor)
	ok(ann.Remove(ctx, phone.Wait(20)))
	ok(ben.Do(ctx, http.MethodDelete, "/api/account", map[string]any{"password": phone.Password}, phone.Wait(20)))
	analyst := w.client(contract.Analyst)
	verify(t, w.pool)
	verifyTopic(t, w.pool, analyst, w.topics.Events)
	for _, topic := range []string{w.topics.Couples, w.topics.Users} {
		eventually(t, 30*time.Second, "a tombstone is on "+topic, func() (bool, error) {
			for _, records := range topicEvents(t, analyst, topic) {
				if slices.ContainsFunc(records, func(r contract.Record) bool { return r.Value == nil }) {
					return true, nil
				}
			}
			return false, nil
		})
	}
	w.deadLetters()
	groups := contract.NewGroups(w.prefix)
	for party, of := range map[contract.Party][2]string{
		contract.Processor: {groups.Processor, w.topics.Commands}, contract.Notifier: {groups.Notifier, w.topics.Events},
	} {
		client := w.client(party)
		eventually(t, 30*time.Second, "the "+string(party)+" has committed what it read", func() (bool, error) {
			committed, err := client.Committed(ctx, of[0], of[1])
			if err != nil {
				return false, err
			}
			_, ends, err := client.Offsets(ctx, of[1])
			for i, end := range ends {
				if end > 0 && committed[i] != end {
					return false, fmt.Errorf("partition %d: %d of %d", i, committed[i], end)
				}
			}
			return err == nil, err
		})
	}
	for _, role := range roles {
		role.stop()
		if log, err := os.ReadFile(role.log); err != nil || regexp.MustCompile("(?i)authoriz|no right").Match(log) {
			t.Errorf("%s asked for more than it may: %v\n%s", role.name, err, log)
		}
	}
	t.Run("an analyst's tool", w.analystsTool)
}

// must returns the outcome of a call that is answered with the status.
func must(t *testing.T, status int) func(phone.Answer, error) phone.Outcome {
	return func(answer phone.Answer, err error) phone.Outcome {
		t.Helper()
		if err == nil {
			err = answer.Decode(status, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if status != http.StatusOK {
			return phone.Outcome{}
		}
		return answer.Outcome()
	}
}

func settingOf(settings []string, name string) string {
	for _, s := range settings {
		if value, ok := strings.CutPrefix(s, name+"="); ok {
			return value
		}
	}
	return ""
}

// deadLetters: what the processor and the notifier cannot read, the operator hears of, and
// writes again.
func (w *guarded) deadLetters() {
	t := w.t
	t.Helper()
	broken := func(by contract.Party, topic string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		rec := contract.Record{Topic: topic, Key: []byte("nobody"), Value: []byte("nothing"), Headers: []contract.Header{
			{Key: "ce_type", Value: []byte("request.received")}, {Key: "ce_id", Value: []byte(uuid.NewString())},
		}}
		if err := w.client(by).Write(ctx, []contract.Record{rec}); err != nil {
			t.Fatalf("%s writes to %s: %v", by, topic, err)
		}
	}
	operator := w.client(contract.Operator)
	// heard waits until the operator has read of so many records of each topic, and returns
	// where the last one of the commands topic lies.
	heard := func(want map[string]int) (place string) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("the operator reads of %v", want), func() (bool, error) {
			got, seen := map[string]int{}, map[uuid.UUID]bool{}
			for _, records := range topicEvents(t, operator, w.topics.DeadLetter) {
				for _, rec := range records {
					d, err := contract.DecodeDeadLetter(rec)
					if err != nil {
						return false, err
					}
					if seen[d.ID()] {
						continue
					}
					seen[d.ID()] = true
					got[d.Topic]++
					if d.Topic == w.topics.Commands {
						place = fmt.Sprintf("%s/%d/%d", d.Topic, d.Partition, d.Offset)
					}
				}
			}
			if !maps.Equal(got, want) {
				return false, fmt.Errorf("of %v", got)
			}
			return true, nil
		})
		return place
	}
	broken(contract.Operator, w.topics.Commands)
	broken(contract.Processor, w.topics.Events)
	place := heard(map[string]int{w.topics.Commands: 1, w.topics.Events: 1})
	w.commandAs(w.user(contract.Operator), "dead-letters", "replay", place, "--force")
	heard(map[string]int{w.topics.Commands: 2, w.topics.Events: 1})
}

// analystsTool: kcat with an analyst's login reads in a group of its own what docs/analytics.md
// names, and neither what people write nor in the notifier's group.
func (w *guarded) analystsTool(t *testing.T) {
	needKcat(t)
	login := w.kafka.As(w.user(contract.Analyst))
	tool := func(args ...string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "kcat", append([]string{
			"-b", w.kafka.Broker, "-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=" + bus.Plain,
			"-X", "sasl.username=" + login.Username, "-X", "sasl.password=" + login.Password, "-X", "auto.offset.reset=earliest", "-e",
		}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	groups := contract.NewGroups(w.prefix)
	for _, topic := range []string{w.topics.Events, w.topics.Couples, w.topics.Users, w.topics.Pushes} {
		out, err := tool("-G", groups.Analysts+"-report", topic)
		if err != nil || !strings.Contains(out, "{") {
			t.Errorf("read %s in a group: %v\n%s", topic, err, out)
		}
	}
	for _, topic := range []string{w.topics.Commands, w.topics.DeadLetter} {
		if out, err := tool("-C", "-t", topic, "-o", "beginning"); err == nil || !strings.Contains(out, "Topic authorization failed") {
			t.Errorf("read %s: %v\n%s", topic, err, out)
		}
	}
	if out, err := tool("-G", groups.Notifier, w.topics.Events); err == nil || !strings.Contains(out, "Group authorization failed") {
		t.Errorf("read in the notifier's group: %v\n%s", err, out)
	}
}
