// Package realtimetest is a client of the bondmate.v1 protocol for tests and for the load
// generator. It speaks the protocol and nothing more: it neither reconnects nor reorders,
// so what it returns is what the gateway sent.
//
// Dial starts one goroutine, which reads and hands on frames, and ends with Close or with
// the connection. A caller that does not call Next soon leaves the frames in the socket's
// buffers, as a slow phone does.
package realtimetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

// Options say how to connect. Zero values are left out of the hello.
type Options struct {
	Token    string // sent as a bearer token at the upgrade
	Ticket   string // sent in the hello
	After    *int64 // see After
	Epoch    string
	DeviceID string
	Visible  bool
	Origin   string
	Header   http.Header // more headers of the upgrade request

	Subprotocols []string // default bondmate.v1; empty but not nil offers none
	ReadBuffer   int      // of the kernel, in bytes; small ones make a slow phone slow sooner
	SkipHello    bool
}

// After returns the pointer that Options.After takes.
func After(seq int64) *int64 { return &seq }

// Frame is any frame of the server; which fields are set depends on Op.
type Frame struct {
	Op        string          `json:"op"`
	Seq       int64           `json:"seq"`
	ID        uuid.UUID       `json:"id"`
	Type      string          `json:"type"`
	Time      time.Time       `json:"time"`
	Data      json.RawMessage `json:"data"`
	UserID    uuid.UUID       `json:"userId"`
	Epoch     string          `json:"epoch"`
	Resumed   bool            `json:"resumed"`
	Heartbeat int             `json:"heartbeat"`
	Reason    string          `json:"reason"`
	InMs      int64           `json:"inMs"`
	Online    bool            `json:"online"`
	LastSeen  *time.Time      `json:"lastSeenAt"`
	Code      string          `json:"code"`

	Received time.Time `json:"-"`
}

// CloseError is how the server ended the connection.
type CloseError struct {
	Code         int
	Reason       string
	RetryAfterMs int64 // of codes 1001 and 1012
}

func (e *CloseError) Error() string { return fmt.Sprintf("closed by server: %d %s", e.Code, e.Reason) }

// RefusedError is an upgrade that was answered with something else.
type RefusedError struct {
	Status     int
	Code       string // of the problem document
	RetryAfter string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("upgrade refused: %d %s", e.Status, e.Code) }

// Conn is one connection. Next is for one goroutine; the others are safe for any.
type Conn struct {
	ws     *websocket.Conn
	frames chan Frame
	done   chan struct{}
	once   sync.Once

	mu  sync.Mutex // of writes
	err error      // why the reader ended; set before frames is closed
}

type hello struct {
	Op       string `json:"op"`
	Ticket   string `json:"ticket,omitempty"`
	After    *int64 `json:"after,omitempty"`
	Epoch    string `json:"epoch,omitempty"`
	DeviceID string `json:"deviceId,omitempty"`
	Visible  bool   `json:"visible,omitempty"`
}

// Dial connects to a ws:// or wss:// address and says hello. The first frame is ready.
func Dial(ctx context.Context, url string, o Options) (*Conn, error) {
	dialer := websocket.Dialer{
		HandshakeTimeout: 10 * time.Second,
		Subprotocols:     o.Subprotocols,
		ReadBufferSize:   1024,
		WriteBufferSize:  512,
		WriteBufferPool:  &sync.Pool{},
	}
	if o.Subprotocols == nil {
		dialer.Subprotocols = []string{"bondmate.v1"}
	}
	if o.ReadBuffer > 0 {
		dialer.NetDialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = tcp.SetReadBuffer(o.ReadBuffer)
			}
			return conn, err
		}
	}
	header := o.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if o.Token != "" {
		header.Set("Authorization", "Bearer "+o.Token)
	}
	if o.Origin != "" {
		header.Set("Origin", o.Origin)
	}
	ws, res, err := dialer.DialContext(ctx, url, header)
	if err != nil {
		if errors.Is(err, websocket.ErrBadHandshake) && res != nil {
			return nil, refused(res)
		}
		return nil, fmt.Errorf("dial %s: %w", url, err)
	}
	c := &Conn{ws: ws, frames: make(chan Frame), done: make(chan struct{})}
	if !o.SkipHello {
		h := hello{Op: "hello", Ticket: o.Ticket, After: o.After, Epoch: o.Epoch, DeviceID: o.DeviceID, Visible: o.Visible}
		if err := c.SendJSON(h); err != nil {
			_ = ws.Close()
			return nil, err
		}
	}
	go c.read()
	return c, nil
}

func refused(res *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	_ = res.Body.Close()
	e := &RefusedError{Status: res.StatusCode, RetryAfter: res.Header.Get("Retry-After")}
	var problem struct{ Code string }
	if json.Unmarshal(body, &problem) == nil {
		e.Code = problem.Code
	}
	return e
}

func (c *Conn) read() {
	defer close(c.frames)
	for {
		_, body, err := c.ws.ReadMessage()
		now := time.Now()
		if err != nil {
			c.err = closeError(err)
			return
		}
		f := Frame{Received: now}
		if err := json.Unmarshal(body, &f); err != nil {
			c.err = fmt.Errorf("decode frame %q: %w", body, err)
			return
		}
		select {
		case c.frames <- f:
		case <-c.done:
			c.err = net.ErrClosed
			return
		}
	}
}

func closeError(err error) error {
	closed, ok := errors.AsType[*websocket.CloseError](err)
	if !ok || closed.Code == websocket.CloseAbnormalClosure {
		return fmt.Errorf("read frame: %w", err)
	}
	e := &CloseError{Code: closed.Code, Reason: closed.Text}
	var reason struct{ RetryAfterMs int64 }
	if json.Unmarshal([]byte(closed.Text), &reason) == nil {
		e.RetryAfterMs = reason.RetryAfterMs
	}
	return e
}

// Next returns the next frame. After the last it returns a *CloseError when the server
// said why, or what else ended the connection.
func (c *Conn) Next(ctx context.Context) (Frame, error) {
	select {
	case f, ok := <-c.frames:
		if !ok {
			return Frame{}, c.err
		}
		return f, nil
	case <-ctx.Done():
		return Frame{}, ctx.Err()
	}
}

// NextOp returns the next frame with an operation, passing over others.
func (c *Conn) NextOp(ctx context.Context, op string) (Frame, error) {
	for {
		f, err := c.Next(ctx)
		if err != nil {
			return Frame{}, fmt.Errorf("wait for %s: %w", op, err)
		}
		if f.Op == op {
			return f, nil
		}
	}
}

// Ack acknowledges everything up to seq.
func (c *Conn) Ack(seq int64) error {
	return c.SendJSON(struct {
		Op  string `json:"op"`
		Seq int64  `json:"seq"`
	}{"ack", seq})
}

// Visible says whether the app is in the foreground.
func (c *Conn) Visible(on bool) error {
	return c.SendJSON(struct {
		Op string `json:"op"`
		On bool   `json:"on"`
	}{"visible", on})
}

// Auth presents a new access token.
func (c *Conn) Auth(token string) error {
	return c.SendJSON(struct {
		Op          string `json:"op"`
		AccessToken string `json:"accessToken"`
	}{"auth", token})
}

// Ping asks for a pong with the head.
func (c *Conn) Ping() error { return c.Send([]byte(`{"op":"ping"}`)) }

// SendJSON sends any message.
func (c *Conn) SendJSON(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return c.Send(body)
}

// Send sends a text message as it is.
func (c *Conn) Send(body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.ws.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if err := c.ws.WriteMessage(websocket.TextMessage, body); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Subprotocol returns what the server chose, or "".
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// Close drops the connection, as a phone does that loses its network, and waits for the
// reader.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.done)
		err = c.ws.Close()
	})
	for range c.frames { //nolint:revive // drains what is left until the reader has ended
	}
	return err
}
