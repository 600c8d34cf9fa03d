// Package phone is a Go client of the API: one value is one person's phone. The load
// generator and the end-to-end tests act through it, so both go the way an app goes.
package phone

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// Server is where phones connect.
type Server struct {
	URL  string // http://host:port
	HTTP *http.Client
}

// NewServer returns a server with a client of its own that keeps enough connections
// open for many concurrent phones. Every call has a deadline of 15 s at most.
func NewServer(url string) *Server {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 1024
	transport.MaxIdleConns = 1024
	return &Server{URL: url, HTTP: &http.Client{Transport: transport, Timeout: 15 * time.Second}}
}

// Phone is one signed-in person.
type Phone struct {
	Server       *Server
	UserID       uuid.UUID
	PartnerCode  string
	Email        string
	AccessToken  string
	RefreshToken string
}

// Password is the password of every phone that Register makes.
const Password = "correct horse battery"

// Register makes a new account. While the server says that it
// is too busy to hash a password, it tries again, a few times, as an app does.
func (s *Server) Register(ctx context.Context, name string) (*Phone, error) {
	for try := 1; ; try++ {
		p, answer, err := s.register(ctx, name)
		if err == nil || answer.Status != http.StatusServiceUnavailable || try == registerTries {
			return p, err
		}
		pause := time.NewTimer(registerPause/2 + rand.N(registerPause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, err
		}
	}
}

const (
	registerTries = 5
	registerPause = time.Second
	// registerAtOnce bounds how many passwords the server is asked to hash at a time.
	registerAtOnce = 4
)

// RegisterAll makes n new accounts with the same name, a few at a time: a password hash
// costs the server tens of milliseconds.
func (s *Server) RegisterAll(ctx context.Context, name string, n int) ([]*Phone, error) {
	phones := make([]*Phone, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registerAtOnce)
	for i := range phones {
		group.Go(func() (err error) {
			phones[i], err = s.Register(ctx, name)
			return err
		})
	}
	return phones, group.Wait()
}

func (s *Server) register(ctx context.Context, name string) (*Phone, Answer, error) {
	p := &Phone{Server: s, Email: fmt.Sprintf("%s-%s@example.com", name, uuid.NewString()[:13])}
	var signedIn struct {
		User struct {
			ID          uuid.UUID `json:"id"`
			PartnerCode string    `json:"partnerCode"`
		} `json:"user"`
		AccessToken  string `json:"accessToken"`
		RefreshToken string `json:"refreshToken"`
	}
	body := map[string]any{"email": p.Email, "password": Password, "displayName": name}
	answer, err := p.Do(ctx, http.MethodPost, "/api/auth/register", body)
	if err != nil {
		return nil, answer, fmt.Errorf("register %s: %w", name, err)
	}
	if err := answer.Decode(http.StatusCreated, &signedIn); err != nil {
		return nil, answer, fmt.Errorf("register %s: %w", name, err)
	}
	p.UserID, p.AccessToken, p.RefreshToken = signedIn.User.ID, signedIn.AccessToken, signedIn.RefreshToken
	p.PartnerCode = signedIn.User.PartnerCode
	return p, answer, nil
}

// Option changes one call.
type Option func(http.Header)

// Wait asks the server to answer with the outcome, for at most so many seconds.
func Wait(seconds int) Option {
	return func(h http.Header) { h.Set("Prefer", "wait="+strconv.Itoa(seconds)) }
}

// Key names the call, so that a repeat has no second effect.
func Key(key string) Option {
	return func(h http.Header) { h.Set("Idempotency-Key", key) }
}

// Answer is what came back, whatever the status.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Outcome is the body of a command's answer, or the code of a problem.
type Outcome struct {
	CommandID uuid.UUID       `json:"commandId"`
	Status    any             `json:"status"` // accepted or applied; a number in a problem
	RequestID uuid.UUID       `json:"requestId"`
	Seq       int64           `json:"seq"`
	Code      string          `json:"code"`
	Result    json.RawMessage `json:"result"`
}

// Outcome reads the answer as a command's. A problem's fields that are no command's
// (its request id is not a UUID) are left out.
func (a Answer) Outcome() Outcome {
	var o Outcome
	if a.Status >= 400 {
		var problem struct {
			Code string `json:"code"`
		}
		_ = json.Unmarshal(a.Body, &problem)
		o.Code = problem.Code
		return o
	}
	_ = json.Unmarshal(a.Body, &o)
	return o
}

// Decode reads the body when the status is the one wanted.
func (a Answer) Decode(status int, into any) error {
	if a.Status != status {
		return fmt.Errorf("status %d instead of %d: %s", a.Status, status, a.Body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(a.Body, into)
}

// Do makes one call. The error is about the network; a problem is an Answer.
func (p *Phone) Do(ctx context.Context, method, path string, body any, options ...Option) (Answer, error) {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return Answer{}, fmt.Errorf("encode body of %s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.Server.URL+path, reader)
	if err != nil {
		return Answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if p.AccessToken != "" {
		req.Header.Set("Authorization", "Bearer "+p.AccessToken)
	}
	for _, option := range options {
		option(req.Header)
	}
	resp, err := p.Server.HTTP.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return Answer{}, fmt.Errorf("read answer of %s %s: %w", method, path, err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: raw}, nil
}

// Get reads a resource that must be there.
func (p *Phone) Get(ctx context.Context, path string, into any) error {
	answer, err := p.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := answer.Decode(http.StatusOK, into); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// Send asks the other to become partners.
func (p *Phone) Send(ctx context.Context, to uuid.UUID, options ...Option) (Answer, error) {
	return p.Do(ctx, http.MethodPost, "/api/enhanced-partners/request", map[string]any{"toUserId": to}, options...)
}

// Accept says yes to a request.
func (p *Phone) Accept(ctx context.Context, request uuid.UUID, options ...Option) (Answer, error) {
	return p.Do(ctx, http.MethodPut, "/api/enhanced-partners/request/"+request.String()+"/accept", nil, options...)
}

// Decline says no to a request.
func (p *Phone) Decline(ctx context.Context, request uuid.UUID, options ...Option) (Answer, error) {
	return p.Do(ctx, http.MethodPut, "/api/enhanced-partners/request/"+request.String()+"/reject", nil, options...)
}

// Cancel takes a request back.
func (p *Phone) Cancel(ctx context.Context, request uuid.UUID, options ...Option) (Answer, error) {
	return p.Do(ctx, http.MethodDelete, "/api/enhanced-partners/request/"+request.String(), nil, options...)
}

// Remove ends the current partnership.
func (p *Phone) Remove(ctx context.Context, options ...Option) (Answer, error) {
	return p.Do(ctx, http.MethodPost, "/api/enhanced-partners/remove", map[string]any{}, options...)
}

// InboxEvent is one event as GET /api/notifications shows it.
type InboxEvent struct {
	Seq  int64           `json:"seq"`
	ID   uuid.UUID       `json:"id"`
	Type string          `json:"type"`
	Time time.Time       `json:"time"`
	Data json.RawMessage `json:"data"`
}

// Inbox reads all events of the phone's inbox, page by page.
func (p *Phone) Inbox(ctx context.Context) ([]InboxEvent, error) {
	var all []InboxEvent
	for after := int64(0); ; {
		var page struct {
			Events  []InboxEvent `json:"events"`
			LastSeq int64        `json:"lastSeq"`
		}
		if err := p.Get(ctx, fmt.Sprintf("/api/notifications?after=%d&limit=100", after), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Events...)
		if len(page.Events) == 0 || page.Events[len(page.Events)-1].Seq >= page.LastSeq {
			return all, nil
		}
		after = page.Events[len(page.Events)-1].Seq
	}
}
