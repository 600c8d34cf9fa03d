package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const readyShape = `{"op":"=ready","userId":"={ana}","seq":"int","epoch":"text","resumed":"bool","heartbeat":"=25"}`

func (a *contractOf) dial(ctx context.Context, header http.Header, protocols ...string) (*websocket.Conn, *http.Response, error) {
	dialer := websocket.Dialer{Subprotocols: protocols, HandshakeTimeout: 10 * time.Second}
	return dialer.DialContext(ctx, "ws"+strings.TrimPrefix(a.server.URL, "http")+"/api/realtime", header)
}

// Who may open a socket, and from where.
func (a *contractOf) handshakes(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana")
	bearer := "Bearer " + c["ana.token"]
	for name, tt := range map[string]struct {
		authorization, origin string
		protocols             []string
		status                int
		code                  string
	}{
		"bearer":             {bearer, "", []string{"bondmate.v1"}, 101, ""},
		"ticket to come":     {"", "", []string{"bondmate.v1"}, 101, ""},
		"no subprotocol":     {bearer, "", nil, 101, ""},
		"one of two":         {bearer, "", []string{"other", "bondmate.v1"}, 101, ""},
		"other subprotocol":  {bearer, "", []string{"other"}, 400, "invalid_request"},
		"listed origin":      {bearer, "https://app.example.org", []string{"bondmate.v1"}, 101, ""},
		"other origin":       {bearer, "https://evil.example", []string{"bondmate.v1"}, 403, "forbidden"},
		"no origin to speak": {bearer, "null", []string{"bondmate.v1"}, 403, "forbidden"},
		"nonsense token":     {"Bearer x.y.z", "", []string{"bondmate.v1"}, 401, "unauthenticated"},
		"basic":              {"Basic eDp5", "", []string{"bondmate.v1"}, 401, "unauthenticated"},
	} {
		header := http.Header{"X-Request-Id": {"mine"}}
		if tt.authorization != "" {
			header.Set("Authorization", tt.authorization)
		}
		if tt.origin != "" {
			header.Set("Origin", tt.origin)
		}
		conn, res, err := a.dial(t.Context(), header, tt.protocols...)
		if res == nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, _ := readAll(res)
		if res.StatusCode != tt.status || res.Header.Get("X-Request-Id") != "mine" {
			t.Errorf("%s: %d, id %q, want %d", name, res.StatusCode, res.Header.Get("X-Request-Id"), tt.status)
		}
		if tt.code != "" {
			shape := fmt.Sprintf(`{"type":"text","title":"text","status":"=%d","detail":"text","code":"=%s","requestId":"=mine"}`, tt.status, tt.code)
			if wrong := misfit(shape, body); wrong != "" {
				t.Errorf("%s: %s", name, wrong)
			}
		}
		if conn != nil {
			if len(tt.protocols) > 0 && conn.Subprotocol() != "bondmate.v1" {
				t.Errorf("%s: subprotocol %q", name, conn.Subprotocol())
			}
			_ = conn.Close()
		}
	}
}

func readAll(res *http.Response) ([]byte, error) {
	defer func() { _ = res.Body.Close() }()
	return bufio.NewReader(res.Body).ReadBytes('\n')
}

// What a socket answers to each message, and the code that it closes with.
func (a *contractOf) sockets(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben")
	ticket := func() string {
		got := a.do(t, c, step{as: "ana", call: "POST /api/realtime/ticket"})
		var body struct{ Ticket string }
		if err := json.Unmarshal(got.Body, &body); err != nil {
			t.Fatal(err)
		}
		return `{"op":"hello","ticket":"` + body.Ticket + `"}`
	}
	used := ticket()
	ping := func(size int) string {
		return `{"op":"ping","x":"` + strings.Repeat("y", size-len(`{"op":"ping","x":""}`)) + `"}`
	}
	const hello, pong = `{"op":"hello","deviceId":"d","visible":true}`, `{"op":"=pong","seq":"=0"}`
	failed := func(code string) string { return `{"op":"=error","code":"=` + code + `"}` }
	for name, tt := range map[string]struct {
		as       string
		messages []string
		frames   []string // shapes
		close    int      // 0: the socket stays
	}{
		"ping":           {"ana", []string{hello, `{"op":"ping"}`}, []string{readyShape, pong}, 0},
		"unknown op":     {"ana", []string{hello, `{"op":"dance"}`, `{"op":"ping"}`}, []string{readyShape, failed("unknown_op"), pong}, 0},
		"wrong type":     {"ana", []string{hello, `{"op":"ack","seq":"x"}`, `{"op":"ping"}`}, []string{readyShape, failed("invalid_request"), pong}, 0},
		"ack beyond":     {"ana", []string{hello, `{"op":"ack","seq":99}`, `{"op":"ping"}`}, []string{readyShape, pong}, 0},
		"visible":        {"ana", []string{hello, `{"op":"visible","on":false}`, `{"op":"ping"}`}, []string{readyShape, pong}, 0},
		"auth":           {"ana", []string{hello, `{"op":"auth","accessToken":"{ana.token}"}`, `{"op":"ping"}`}, []string{readyShape, pong}, 0},
		"other's auth":   {"ana", []string{hello, `{"op":"auth","accessToken":"{ben.token}"}`}, []string{readyShape, failed("forbidden")}, 0},
		"4 KiB":          {"ana", []string{hello, ping(4 << 10)}, []string{readyShape, pong}, 0},
		"more than that": {"ana", []string{hello, ping(4<<10 + 1)}, []string{readyShape}, 1009},
		"not JSON":       {"ana", []string{hello, `hey`}, []string{readyShape}, 1008},
		"not JSON first": {"ana", []string{`hey`}, nil, 1008},
		"no hello":       {"ana", []string{`{"op":"ping"}`}, nil, 4001},
		"silence":        {"ana", nil, nil, 4001},
		"nothing shown":  {"", []string{hello}, nil, 4001},
		"ticket":         {"", []string{used}, []string{readyShape}, 0},
		"false ticket":   {"", []string{`{"op":"hello","ticket":"x"}`}, nil, 4001},
		"resume":         {"ana", []string{`{"op":"hello","after":0}`}, []string{`{"op":"=ready","resumed":"=true"}`}, 0},
		"other history":  {"ana", []string{`{"op":"hello","after":0,"epoch":"x"}`}, []string{`{"op":"=ready","resumed":"=false"}`, `{"op":"=resync","reason":"text","seq":"=0","epoch":"text"}`}, 0},
		"beyond head":    {"ana", []string{`{"op":"hello","after":9}`}, []string{`{"op":"=ready","resumed":"=false"}`, `{"op":"=resync","reason":"text","seq":"=0","epoch":"text"}`}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			if tt.as != "" {
				header.Set("Authorization", "Bearer "+c[tt.as+".token"])
			}
			conn, _, err := a.dial(t.Context(), header, "bondmate.v1")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			for i, message := range tt.messages {
				if err := conn.WriteMessage(websocket.TextMessage, []byte(c.fill(message))); err != nil {
					t.Fatal(err)
				}
				if i == 0 && len(tt.frames) > 0 { // a fault in what follows may close before ready is out
					expect(t, conn, c, tt.frames[0])
				}
			}
			expect(t, conn, c, tt.frames[min(1, len(tt.frames)):]...)
			if tt.close != 0 {
				wantClose(t, conn, tt.close)
			}
		})
	}
	again, _, err := a.dial(t.Context(), nil, "bondmate.v1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if err := again.WriteMessage(websocket.TextMessage, []byte(used)); err != nil {
		t.Fatal(err)
	}
	wantClose(t, again, 4001) // a ticket is for once
}

func expect(t *testing.T, conn *websocket.Conn, c cast, shapes ...string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for _, shape := range shapes {
		kind, frame, err := conn.ReadMessage()
		if err != nil || kind != websocket.TextMessage {
			t.Fatalf("instead of %s: %v", shape, err)
		}
		if wrong := misfit(c.fill(shape), frame); wrong != "" {
			t.Fatalf("%s: %s", frame, wrong)
		}
	}
}

func wantClose(t *testing.T, conn *websocket.Conn, code int) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	kind, frame, err := conn.ReadMessage()
	closed, ok := errors.AsType[*websocket.CloseError](err)
	if !ok || closed.Code != code {
		t.Errorf("message %d %s, error %v; want close %d", kind, frame, err, code)
	}
}

// A socket that comes back receives what it missed, then what is new, and ends with its session.
func (a *contractOf) resume(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ben", "ana")
	const send = "POST /api/enhanced-partners/request"
	event := func(seq int, kind string) string {
		return fmt.Sprintf(`{"op":"=event","seq":"=%d","id":"uuid","type":"=%s","time":"time","data":{"requestId":"uuid"}}`, seq, kind)
	}
	ask := step{as: "ben", call: send, body: `{"toUserId":"{ana}"}`, header: "Prefer: wait=10", status: 200, save: "req=requestId"}
	a.run(t, c, []step{
		ask,
		{as: "ben", call: "DELETE /api/enhanced-partners/request/{req}", header: "Prefer: wait=10", status: 200},
		ask,
	})
	conn, _, err := a.dial(t.Context(), http.Header{"Authorization": {"Bearer " + c["ana.token"]}}, "bondmate.v1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	say := func(message string) {
		t.Helper()
		if err := conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	say(`{"op":"hello","after":1}`)
	expect(t, conn, c, readyShape, event(2, "request.cancelled"), event(3, "request.received"))
	a.run(t, c, []step{{as: "ben", call: "DELETE /api/enhanced-partners/request/{req}", status: 202}})
	expect(t, conn, c, event(4, "request.cancelled"))
	say(`{"op":"ack","seq":4}`)
	say(`{"op":"ping"}`)
	expect(t, conn, c, `{"op":"=pong","seq":"=4"}`)
	eventually(t, 10*time.Second, "the acknowledgement counts", func() (bool, error) {
		got := a.do(t, c, step{as: "ana", call: "GET /api/notifications?after=4"})
		return misfit(`{"unread":"=0","lastSeq":"=4"}`, got.Body) == "", nil
	})
	a.run(t, c, []step{{as: "ana", call: "POST /api/auth/logout", status: 204}})
	wantClose(t, conn, 4004)
}

// Partners who both share it see each other come and go.
func (a *contractOf) presence(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben")
	wait, share := "Prefer: wait=10", `{"privacy":{"presence":true}}`
	a.run(t, c, []step{
		{as: "ana", call: "PATCH /api/profile", body: share, header: wait, status: 200},
		{as: "ben", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{ana}"}`, header: wait, status: 200, save: "req=requestId"},
		{as: "ana", call: "PUT /api/enhanced-partners/request/{req}/accept", header: wait, status: 200},
	})
	open := func(who string) *websocket.Conn {
		t.Helper()
		conn, _, err := a.dial(t.Context(), http.Header{"Authorization": {"Bearer " + c[who+".token"]}}, "bondmate.v1")
		if err == nil {
			err = conn.WriteMessage(websocket.TextMessage, []byte(`{"op":"hello"}`))
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	anas, bens := open("ana"), open("ben")
	expect(t, anas, c, `{"op":"=ready"}`)
	expect(t, bens, c, `{"op":"=ready"}`)
	// Nothing of her until he shares, too: before her presence he gets the event of that alone,
	// or after it, when it had to be read from the inbox.
	a.run(t, c, []step{{as: "ben", call: "PATCH /api/profile", body: share, header: wait, status: 200}})
	one, two := `{"op":"=event","type":"=profile.updated"}`, `{"op":"=presence","userId":"={ana}","online":"=true","lastSeenAt":"time"}`
	_ = bens.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range 2 {
		_, frame, err := bens.ReadMessage()
		if err != nil || misfit(c.fill(one), frame) != "" && misfit(c.fill(two), frame) != "" {
			t.Fatalf("frame %s, %v", frame, err)
		}
	}
	expect(t, anas, c, `{"op":"=presence","userId":"={ben}","online":"=true","lastSeenAt":"time"}`)
	_ = bens.Close()
	expect(t, anas, c, `{"op":"=presence","userId":"={ben}","online":"=false","lastSeenAt":"time"}`)
}

// What is read on one device is read on all: the others hear how far, and the badge is empty.
func (a *contractOf) readMarks(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben")
	const read = "POST /api/notifications/read"
	wait := "Prefer: wait=10"
	a.run(t, c, []step{
		{as: "ben", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{ana}"}`, header: wait, status: 200, save: "req=requestId"},
		{as: "ana", call: "GET /api/notifications", status: 200, shape: `{"lastSeq":"=1","readSeq":"=0","unread":"=1"}`},
	})
	var devices []*websocket.Conn
	for range 2 {
		conn, _, err := a.dial(t.Context(), http.Header{"Authorization": {"Bearer " + c["ana.token"]}}, "bondmate.v1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"op":"hello","after":0}`)); err != nil {
			t.Fatal(err)
		}
		expect(t, conn, c, readyShape, `{"op":"=event","seq":"=1","type":"=request.received"}`)
		devices = append(devices, conn)
	}
	applied := func(mark int) string { return fmt.Sprintf(`{"status":"=applied","result":{"seq":"=%d"}}`, mark) }
	a.run(t, c, []step{
		{as: "ana", call: read, body: `{"seq":1}`, header: wait, status: 200, shape: applied(1)},
		{as: "ana", call: "GET /api/notifications", status: 200, shape: `{"lastSeq":"=2","readSeq":"=1","unread":"=0"}`},
		{as: "ana", call: "GET /api/sync", status: 200, shape: `{"seq":"=2","readSeq":"=1","unread":"=0"}`},
		{as: "ana", call: read, body: `{"seq":0}`, header: wait, status: 200, shape: applied(1)},
		{as: "ana", call: read, body: `{"seq":1}`, header: wait, status: 200, shape: applied(1)},
		{as: "ana", call: read, body: `{"seq":99}`, header: wait, status: 200, shape: applied(2)},
		{as: "ben", call: "DELETE /api/enhanced-partners/request/{req}", header: wait, status: 200},
	})
	for _, conn := range devices {
		expect(t, conn, c,
			`{"op":"=event","seq":"=2","id":"uuid","type":"=inbox.read","time":"time","data":{"seq":"=1"}}`,
			`{"op":"=event","seq":"=3","type":"=inbox.read","data":{"seq":"=2"}}`,
			`{"op":"=event","seq":"=4","type":"=request.cancelled"}`)
	}
}

// A push comes to the one who was asked, discreet and after its grace, unless they have muted
// that; a quiet leave makes none, and takes back what was not sent yet.
func (a *contractOf) pushes(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "ben", "cem")
	device := func(who string) step {
		return step{as: who, call: "POST /api/devices", body: `{"kind":"fcm","token":"{` + who + `}","platform":"android"}`, status: 201}
	}
	wait := "Prefer: wait=10"
	a.run(t, c, []step{
		device("ana"), device("ben"), device("cem"),
		{as: "cem", call: "PUT /api/notifications/preferences", body: `{"categories":{"requests":false}}`, status: 200, shape: `{"categories":{"requests":"=false","partnership":"=true"}}`},
		{as: "cem", call: "GET /api/notifications/preferences", status: 200, shape: `{"categories":{"requests":"=false"}}`},
		{as: "ana", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{cem}"}`, header: wait, status: 200},
		{as: "ana", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{ben}","message":"secret"}`, header: wait, status: 200, save: "req=requestId"},
		{as: "ben", call: "PUT /api/enhanced-partners/request/{req}/accept", header: wait, status: 200},
		{as: "ana", call: "POST /api/enhanced-partners/remove", body: `{"quiet":true}`, header: wait, status: 200},
		// After it, so that its push proves that the quiet one's time is over.
		{as: "ana", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{ben}"}`, header: wait, status: 200, save: "again=requestId"},
	})
	var types []string
	eventually(t, 20*time.Second, "the second request is pushed", func() (bool, error) {
		types = types[:0]
		file, err := os.Open(filepath.Join(a.dir, "pushes.jsonl"))
		if err != nil {
			return false, err
		}
		defer func() { _ = file.Close() }()
		last := false
		for lines := bufio.NewScanner(file); lines.Scan(); {
			line := lines.Text()
			if strings.Contains(line, `"`+c["cem"]+`"`) {
				return false, fmt.Errorf("pushed in spite of being muted: %s", line)
			}
			if !strings.Contains(line, `"`+c["ben"]+`"`) {
				continue
			}
			wrong := misfit(c.fill(`{"time":"time","status":"=200","message":{"token":"={ben}","notification":{"body":"=You have an update"},
				"data":{"v":"text","eventId":"uuid","seq":"text","epoch":"text","type":"text","link":"text"}}}`), lines.Bytes())
			if wrong != "" || strings.Contains(line, "secret") {
				return false, fmt.Errorf("%s: %s", wrong, line)
			}
			var push struct {
				Message struct{ Data struct{ Type string } }
			}
			if err := json.Unmarshal(lines.Bytes(), &push); err != nil {
				return false, err
			}
			types = append(types, push.Message.Data.Type)
			last = last || strings.Contains(line, c["again"])
		}
		return last, nil
	})
	if got := strings.Join(types, " "); got != "request.received" {
		t.Errorf("pushed to Ben: %s", got)
	}
}

// What a socket in front has acknowledged is not pushed; what a phone lost on its way is, once;
// and a tablet that nobody looks at silences nothing.
func (a *contractOf) acknowledgements(t *testing.T) {
	t.Parallel()
	c := a.people(t, "ana", "seen", "lost", "hidden")
	wait := "Prefer: wait=10"
	sockets := map[string]*websocket.Conn{}
	for _, who := range []string{"seen", "lost", "hidden"} {
		a.run(t, c, []step{{as: who, call: "POST /api/devices", body: `{"kind":"fcm","token":"{` + who + `}","platform":"android"}`, status: 201}})
		conn, _, err := a.dial(t.Context(), http.Header{"Authorization": {"Bearer " + c[who+".token"]}}, "bondmate.v1")
		if err == nil {
			err = conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"op":"hello","after":0,"visible":%t}`, who != "hidden"))
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		expect(t, conn, c, `{"op":"=ready"}`)
		sockets[who] = conn
	}
	for who, conn := range sockets {
		a.run(t, c, []step{{as: "ana", call: "POST /api/enhanced-partners/request", body: `{"toUserId":"{` + who + `}"}`, header: wait, status: 200}})
		expect(t, conn, c, `{"op":"=event","seq":"=1","type":"=request.received"}`)
		if who == "lost" {
			_ = conn.Close() // it has reached the phone, and nobody knows
			continue
		}
		if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"op":"ack","seq":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	pool := connect(t, readAddress(t, a.dir, "postgres.dsn"))
	for who, want := range map[string]string{"seen": "suppressed", "lost": "delivered", "hidden": "delivered"} {
		var outcomes []string
		eventually(t, 20*time.Second, who+"'s push is settled", func() (bool, error) {
			err := pool.QueryRow(t.Context(), `SELECT coalesce(array_agg(coalesce(outcome, 'waits')), '{}') FROM push_deliveries WHERE user_id = $1`, c[who]).Scan(&outcomes)
			return len(outcomes) == 1 && outcomes[0] != "waits", err
		})
		if outcomes[0] != want {
			t.Errorf("%s's push is %s, want %s", who, outcomes[0], want)
		}
		sent, err := os.ReadFile(filepath.Join(a.dir, "pushes.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(sent), `"token":"`+c[who]+`"`); n != map[bool]int{true: 1}[want == "delivered"] {
			t.Errorf("%d pushes for %s, whose push is %s", n, who, want)
		}
	}
}

func (a *contractOf) metrics(t *testing.T) {
	if got, want := readAddress(t, a.dir, "admin.addr"), strings.TrimPrefix(a.process.admin, "http://"); got != want {
		t.Errorf("admin.addr says %s, not %s", got, want)
	}
	for name, parts := range map[string][]string{
		"bondmate_http_requests_total":            {`route="/api/profile"`, `method="GET"`, `status="200"`},
		"bondmate_http_request_seconds_count":     {`route="/api/sync"`},
		"bondmate_http_open_connections":          nil,
		"bondmate_processor_commands_total":       nil,
		"bondmate_ingest_commands_accepted_total": nil,
	} {
		if a.process.metric(name, parts...) <= 0 {
			t.Errorf("metric %s %v is not above zero", name, parts)
		}
	}
}
