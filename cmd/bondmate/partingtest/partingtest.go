// Package partingtest holds what two people see of each other when one of them leaves,
// blocks or deletes the account (G9): over real sockets, the API and the push stand-in,
// whatever runs behind them. A test brings up a deployment and runs the cases on it.
//
// What it wants of each: whatever the other had not acknowledged reaches nobody later than
// a second after the ending was committed, on any socket or as a push whose call begins;
// inboxes have no gap; and what was withdrawn reads as a placeholder with its sequence, in
// the list, on a socket that resumes, and in the snapshot of an app that starts anew.
//
// That nothing comes any more cannot be waited for. So each case ends with somebody else
// asking the one who was left: what was before it on the way has arrived once this has.
package partingtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/embedded/fcm"
	"github.com/bondmate/backend/realtime/realtimetest"
)

// Grace is what a deployment's PUSH_GRACE has to be: long enough that a leave comes before
// a push that waits, on a slow machine, too.
const Grace = 4 * time.Second

const (
	// allowed is how long after the commit something may still come (G9).
	allowed = time.Second
	// patience bounds every wait: much longer than anything takes.
	patience = 60 * time.Second
	partners = "/api/enhanced-partners"
)

// Deployment is what runs.
type Deployment struct {
	API     *phone.Server
	Sockets *phone.Server // nil: the API's
	Pushes  *fcm.Server
	Pool    *pgxpool.Pool // of its database

	// LoseOwner kills the processor after it has committed what is posted meanwhile and
	// before it has published anything of it, and starts another. Nil where that cannot be
	// done.
	LoseOwner func(t *testing.T, posts Posts)
}

// Posts are the commands of the case in which the owner is lost.
type Posts struct {
	Bystander uuid.UUID
	First     func()             // posts a command of the bystander, to occupy the owner
	Rest      func() []uuid.UUID // posts those that are to be one transaction, and returns their ids
}

// PushSettings returns the environment of roles that push to the stand-in.
func PushSettings(pushes *fcm.Server) []string {
	return []string{
		"FIREBASE_CREDENTIALS_FILE=" + pushes.CredentialsFile(), "FCM_ENDPOINT=" + pushes.Endpoint(), "PUSH_GRACE=" + Grace.String(),
	}
}

// StandIn runs a push stand-in until the test ends.
func StandIn(t *testing.T, cfg fcm.Config) *fcm.Server {
	t.Helper()
	cfg.Dir = t.TempDir()
	server, err := fcm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("push stand-in: %v", err)
		}
	})
	return server
}

// Run runs every case that the deployment can.
func Run(t *testing.T, d Deployment) {
	t.Helper()
	if d.Sockets == nil {
		d.Sockets = d.API
	}
	for name, test := range map[string]func(*world){
		"leave with a push queued":           leaveQueued,
		"leave with a push in flight":        leaveInFlight,
		"leave with a push sent":             leaveSent,
		"leave in the open with a push sent": leaveAloud,
		"block of a partner":                 blockPartner,
		"block while a request comes":        blockComing,
		"block while its push is in flight":  blockInFlight,
		"deletion in mid-request":            deleteMidRequest,
		"logout with a push queued":          logoutQueued,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&world{Deployment: d, t: t})
		})
	}
	if d.LoseOwner != nil {
		RunLostOwner(t, d)
	}
}

// RunLostOwner runs the one case in which the owner is killed.
func RunLostOwner(t *testing.T, d Deployment) {
	t.Helper()
	if d.Sockets == nil {
		d.Sockets = d.API
	}
	t.Run("owner killed between commit and relay", func(t *testing.T) {
		ownerKilled(&world{Deployment: d, t: t})
	})
}

type world struct {
	Deployment
	t *testing.T
}

// person is somebody with a phone that has registered for pushes.
type person struct {
	*phone.Phone
	w     *world
	token string // of pushes
	acked int64  // what the person has acknowledged
}

func (w *world) person(name string) *person {
	w.t.Helper()
	registered, err := w.API.Register(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &person{Phone: registered, w: w, token: name + "-" + uuid.NewString()}
	p.call(http.MethodPost, "/api/devices", map[string]any{"kind": "fcm", "token": p.token, "platform": "android"}, http.StatusCreated)
	return p
}

// call calls, waits for the outcome of a command, and wants a status.
func (p *person) call(method, path string, body any, status int) phone.Answer {
	p.w.t.Helper()
	var options []phone.Option
	if method != http.MethodGet {
		options = append(options, phone.Wait(10))
	}
	answer, err := p.Do(p.w.t.Context(), method, path, body, options...)
	if err != nil {
		p.w.t.Fatal(err)
	}
	if answer.Status != status {
		p.w.t.Fatalf("%s %s: %d %s, want %d", method, path, answer.Status, answer.Body, status)
	}
	return answer
}

// ask sends a request and returns its id.
func (p *person) ask(other *person) string {
	p.w.t.Helper()
	answer := p.call(http.MethodPost, partners+"/request", map[string]any{"toUserId": other.UserID}, http.StatusOK)
	return answer.Outcome().RequestID.String()
}

// couple is two partners who have seen all that made them so.
func (w *world) couple() (ana, ben *person, bens *screen) {
	w.t.Helper()
	ana, ben = w.person("ana"), w.person("ben")
	bens = ben.watch()
	request := ana.ask(ben)
	ben.call(http.MethodPut, partners+"/request/"+request+"/accept", nil, http.StatusOK)
	ben.acknowledge(bens)
	return ana, ben, bens
}

// askToPart has Ana say something that Ben is pushed, and something that he is not.
func (p *person) askToPart() {
	p.w.t.Helper()
	p.call(http.MethodPatch, "/api/profile", map[string]any{"displayName": "Another name"}, http.StatusOK)
	p.call(http.MethodPost, partners+"/breakup", map[string]any{"reason": "mine"}, http.StatusOK)
}

func (p *person) leaveQuietly() time.Time {
	p.w.t.Helper()
	p.call(http.MethodPost, partners+"/remove", map[string]any{"quiet": true}, http.StatusOK)
	return time.Now()
}

func (p *person) block(other *person) time.Time {
	p.w.t.Helper()
	p.call(http.MethodPut, partners+"/blocks/"+other.UserID.String(), nil, http.StatusOK)
	return time.Now()
}

// screen is a socket that acknowledges nothing by itself, and remembers all it was shown.
type screen struct {
	t    *testing.T
	conn *realtimetest.Conn

	mu     sync.Mutex
	frames []realtimetest.Frame
	err    error
}

// watch opens a socket from the beginning of the inbox on, until the test ends.
func (p *person) watch() *screen {
	p.w.t.Helper()
	mine := *p.Phone
	mine.Server = p.w.Sockets
	conn, err := mine.Connect(p.w.t.Context(), realtimetest.After(0))
	if err != nil {
		p.w.t.Fatal(err)
	}
	s := &screen{t: p.w.t, conn: conn}
	ctx := context.WithoutCancel(p.w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			f, err := conn.NextOp(ctx, "event")
			s.mu.Lock()
			if err != nil {
				s.err = err
				s.mu.Unlock()
				return
			}
			s.frames = append(s.frames, f)
			s.mu.Unlock()
		}
	}()
	p.w.t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return s
}

func (s *screen) shown() []realtimetest.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]realtimetest.Frame(nil), s.frames...)
}

// until waits until the screen has shown an entry.
func (s *screen) until(seq int64) []realtimetest.Frame {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("entry %d on the socket", seq), func() bool {
		shown := s.shown()
		return len(shown) > 0 && shown[len(shown)-1].Seq >= seq
	})
	return s.shown()
}

// acknowledge acknowledges everything that is in the inbox now, and waits until it counts.
func (p *person) acknowledge(s *screen) {
	p.w.t.Helper()
	inbox := p.inbox()
	p.acked = int64(len(inbox))
	s.until(p.acked)
	if err := s.conn.Ack(p.acked); err != nil {
		p.w.t.Fatal(err)
	}
	eventually(p.w.t, "the acknowledgement to count", func() bool {
		return one[int64](p.w, `SELECT COALESCE(max(seq), 0) FROM acks WHERE user_id = $1`, p.UserID) >= p.acked
	})
}

func (p *person) inbox() []phone.InboxEvent {
	p.w.t.Helper()
	inbox, err := p.Inbox(p.w.t.Context())
	if err != nil {
		p.w.t.Fatal(err)
	}
	return inbox
}

// pushed returns what the calls for the person's phone were about, of what they have not
// acknowledged.
func (p *person) pushed() (types []string, calls []call) {
	p.w.t.Helper()
	for _, push := range p.w.Pushes.Recent(p.token) {
		var msg struct {
			Notification json.RawMessage
			Data         struct{ Type, Seq, Replaces string }
		}
		if err := json.Unmarshal(push.Message, &msg); err != nil {
			p.w.t.Fatal(err)
		}
		seq, err := strconv.ParseInt(msg.Data.Seq, 10, 64)
		if err != nil {
			p.w.t.Fatal(err)
		}
		if seq <= p.acked {
			continue
		}
		if silent := len(msg.Notification) == 0; silent != (msg.Data.Type == "withdrawn") || silent != (msg.Data.Replaces != "") {
			p.w.t.Errorf("push %s", push.Message)
		}
		types = append(types, msg.Data.Type)
		calls = append(calls, call{push.Began, seq, msg.Data.Type})
	}
	return types, calls
}

type call struct {
	began time.Time
	seq   int64
	kind  string
}

// of returns the sequences of what the person has of another and has not acknowledged.
func (p *person) of(other *person) map[int64]bool {
	p.w.t.Helper()
	rows, err := p.w.Pool.Query(p.w.t.Context(), `SELECT seq FROM inbox WHERE user_id = $1 AND origin = $2 AND seq > $3`,
		p.UserID, other.UserID, p.acked)
	if err != nil {
		p.w.t.Fatal(err)
	}
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		p.w.t.Fatal(err)
	}
	set := map[int64]bool{}
	for _, seq := range seqs {
		set[seq] = true
	}
	return set
}

// nothingMore wants what the package promises of the one who was left, since the other's
// ending was committed, and the pushes that there are, the marker's last.
func (p *person) nothingMore(s *screen, other *person, ended time.Time, pushes ...string) {
	p.w.t.Helper()
	t := p.w.t
	p.marker(s)
	withdrawn := p.of(other)
	if len(withdrawn) == 0 {
		t.Error("there is nothing to withdraw: the case shows nothing")
	}
	inbox := p.inbox()
	for i, e := range inbox {
		if e.Seq != int64(i+1) {
			t.Fatalf("entry %d of the inbox has sequence %d", i+1, e.Seq)
		}
		if empty := string(e.Data) == "{}"; withdrawn[e.Seq] != (e.Type == "withdrawn") || withdrawn[e.Seq] && !empty {
			t.Errorf("entry %d reads %s %s; of the other and not acknowledged: %v", e.Seq, e.Type, e.Data, withdrawn[e.Seq])
		}
	}
	for i, f := range s.until(int64(len(inbox))) {
		if f.Seq != int64(i+1) || f.ID != inbox[i].ID {
			t.Fatalf("entry %d on the socket is %d, %s", i+1, f.Seq, f.ID)
		}
		if late := f.Received.Sub(ended); late > allowed && withdrawn[f.Seq] && f.Type != "withdrawn" {
			t.Errorf("entry %d, %s %s, came %v after the ending", f.Seq, f.Type, f.Data, late)
		}
	}
	if diff := cmp.Diff(inbox, replayed(p.watch().until(int64(len(inbox))))); diff != "" {
		t.Errorf("a socket that resumes (-inbox +socket):\n%s", diff)
	}
	p.snapshot(other, int64(len(inbox)))

	types, calls := p.pushed()
	if diff := cmp.Diff(append(pushes, "request.received"), types); diff != "" {
		t.Errorf("pushes (-want +got):\n%s", diff)
	}
	for _, c := range calls {
		if late := c.began.Sub(ended); late > allowed && withdrawn[c.seq] && c.kind != "withdrawn" {
			t.Errorf("the push of entry %d, %s, began %v after the ending", c.seq, c.kind, late)
		}
	}
}

func replayed(frames []realtimetest.Frame) []phone.InboxEvent {
	events := make([]phone.InboxEvent, len(frames))
	for i, f := range frames {
		events[i] = phone.InboxEvent{Seq: f.Seq, ID: f.ID, Type: f.Type, Time: f.Time, Data: f.Data}
	}
	return events
}

// snapshot wants nothing of the other in what an app that starts anew is told.
func (p *person) snapshot(other *person, head int64) {
	p.w.t.Helper()
	answer := p.call(http.MethodGet, "/api/sync", nil, http.StatusOK)
	var sync struct {
		Seq      int64
		Partners []json.RawMessage
		Breakup  json.RawMessage
	}
	if err := json.Unmarshal(answer.Body, &sync); err != nil {
		p.w.t.Fatal(err)
	}
	if sync.Seq != head || len(sync.Partners) != 0 || len(sync.Breakup) > 4 || strings.Contains(string(answer.Body), other.UserID.String()) {
		p.w.t.Errorf("GET /api/sync with the inbox at %d: %s", head, answer.Body)
	}
}

// marker has somebody ask the person, and waits for it on the screen and as a push.
func (p *person) marker(s *screen) {
	p.w.t.Helper()
	friend := p.w.person("friend")
	var request string
	eventually(p.w.t, "a friend's request", func() bool {
		answer, err := friend.Send(p.w.t.Context(), p.UserID, phone.Wait(10))
		request = answer.Outcome().RequestID.String()
		return err == nil && answer.Status == http.StatusOK
	})
	eventually(p.w.t, "the friend's request on the socket", func() bool {
		for _, f := range s.shown() {
			if strings.Contains(string(f.Data), request) {
				return true
			}
		}
		return false
	})
	eventually(p.w.t, "the push of the friend's request", func() bool {
		for _, push := range p.w.Pushes.Recent(p.token) {
			if strings.Contains(string(push.Message), request) {
				return true
			}
		}
		return false
	})
	eventually(p.w.t, "nothing of the person's in hand", func() bool {
		return one[int](p.w, `SELECT count(*) FROM push_deliveries WHERE user_id = $1 AND status < 3`, p.UserID) == 0
	})
}

func one[T any](w *world, sql string, args ...any) T {
	w.t.Helper()
	var v T
	if err := w.Pool.QueryRow(w.t.Context(), sql, args...).Scan(&v); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// eventually polls until it is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
