// Package fcm is a stand-in for Firebase Cloud Messaging's HTTP v1 API on loopback:
// the OAuth token endpoint, messages:send, and a service-account file that points at
// them, so that the real Firebase SDK does its real flow where there is no project.
//
// It refuses what FCM refuses of the messages this project sends (a missing token, data
// that are not strings, reserved keys, too many bytes), so a message that passes here is
// well formed. Tests script its answers; the demo page shows what it received.
//
// A Server owns its listener and its file from New on. Run serves until its context
// ends, then finishes the calls in hand, and closes both. Every message received is in
// Recent and in the file before its sender has the answer.
package fcm

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The names of the files in Config.Dir.
const (
	CredentialsName = "fcm-service-account.json" // #nosec G101 -- a file's name
	PushesName      = "pushes.jsonl"
)

const (
	project        = "bondmate-local"
	defaultKeep    = 1000
	maxBody        = 64 << 10
	maxMessage     = 4096 // bytes of notification and data that FCM takes
	drainTimeout   = 2 * time.Second
	requestTimeout = time.Minute // of one call; longer than any scripted delay
)

// Config is what a Server needs.
type Config struct {
	Dir   string           // where the service-account file and the list of pushes go; must exist
	Addr  string           // default 127.0.0.1:0
	Keep  int              // messages kept in memory; default 1000
	Clock func() time.Time // default time.Now
	Log   *slog.Logger     // required
}

// Push is one message as it was received, with the status that it was answered.
type Push struct {
	Time    time.Time       `json:"time"`
	Status  int             `json:"status"` // HTTP status; 0 when the connection was dropped instead
	Message json.RawMessage `json:"message"`
	Began   time.Time       `json:"-"` // when the call had come in, before any delay
	Reached bool            `json:"-"` // the phone gets it
}

// Server is the stand-in. All its methods are safe for concurrent use.
type Server struct {
	cfg      Config
	listener net.Listener
	file     *os.File
	key      *rsa.PrivateKey

	mu      sync.Mutex
	scripts []*script
	tokens  map[string]time.Time // access token → when it ends
	recent  []received           // oldest first; the last cfg.Keep count
	begun   int                  // messages that have come
	changed chan struct{}        // closed and replaced at each message
}

type received struct {
	token string
	push  Push
}

// New listens, and writes the service-account file. The file's key survives restarts;
// its token_uri names the port of this one.
func New(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	s := &Server{cfg: cfg, tokens: map[string]time.Time{}, changed: make(chan struct{})}
	var err error
	if s.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", cfg.Addr); err != nil {
		return nil, fmt.Errorf("listen for the push stand-in: %w", err)
	}
	if s.key, err = writeCredentials(s.CredentialsFile(), s.Endpoint()); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	pushes := filepath.Join(cfg.Dir, PushesName)
	if s.file, err = os.OpenFile(pushes, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil { // #nosec G304 -- the operator's data directory
		return nil, errors.Join(fmt.Errorf("open the list of pushes: %w", err), s.listener.Close())
	}
	return s, nil
}

// Endpoint returns the base URL, as FCM_ENDPOINT takes it.
func (s *Server) Endpoint() string { return "http://" + s.listener.Addr().String() }

// CredentialsFile returns the path of the service-account file.
func (s *Server) CredentialsFile() string { return filepath.Join(s.cfg.Dir, CredentialsName) }

// ProjectID returns the project of the service account.
func (s *Server) ProjectID() string { return project }

// Close gives up a Server whose Run was never called.
func (s *Server) Close() error { return errors.Join(s.listener.Close(), s.file.Close()) }

// Run serves until ctx ends, and returns when the calls in hand are answered or after
// two seconds.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.serveToken)
	mux.HandleFunc("POST /v1/projects/{project}/messages:send", s.serveSend)
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.listener) }()

	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("serve the push stand-in: %w", err)
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		if srv.Shutdown(drain) != nil {
			err = srv.Close() // a scripted delay outlasted the drain; its caller has gone too
		}
		cancel()
		if cause := <-served; !errors.Is(cause, http.ErrServerClosed) {
			err = errors.Join(err, cause)
		}
	}
	return errors.Join(err, s.file.Close())
}

func (s *Server) serveSend(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("project") != project {
		refusal(http.StatusForbidden, "PERMISSION_DENIED", "", "not a project of this service account").write(w)
		return
	}
	if !s.authorized(r) {
		refusal(http.StatusUnauthorized, "UNAUTHENTICATED", "", "Request had invalid authentication credentials.").write(w)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refusal(http.StatusBadRequest, "INVALID_ARGUMENT", "", "unreadable body").write(w)
		return
	}
	began := s.cfg.Clock().UTC()
	msg, token, err := parseMessage(body)
	if err != nil {
		answer := refusal(http.StatusBadRequest, "INVALID_ARGUMENT", "INVALID_ARGUMENT", err.Error())
		s.keep(token, Push{Time: began, Status: answer.Status, Message: msg, Began: began})
		answer.write(w)
		return
	}
	s.mu.Lock()
	s.begun++
	s.mu.Unlock()
	answer := s.answerFor(token)
	if answer.Delay > 0 {
		timer := time.NewTimer(answer.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	s.keep(token, Push{Time: s.cfg.Clock().UTC(), Status: answer.status(), Message: msg, Began: began, Reached: answer.Reaches || answer.status() == http.StatusOK})
	if answer.Drop {
		panic(http.ErrAbortHandler) // the documented way to cut a connection without an answer
	}
	answer.write(w)
}

// keep records a push in memory and in the file.
func (s *Server) keep(token string, push Push) {
	line, err := json.Marshal(push)
	if err != nil {
		s.cfg.Log.Error("encode a received push", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent = append(s.recent, received{token: token, push: push})
	if over := len(s.recent) - s.cfg.Keep; over > s.cfg.Keep/2 { // not for each: it copies all
		s.recent = append(s.recent[:0:0], s.recent[over:]...)
	}
	if _, err := s.file.Write(append(line, '\n')); err != nil {
		s.cfg.Log.Error("append to the list of pushes", "error", err)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Recent returns the messages received for a device token, oldest first; for an empty
// token those of all devices.
func (s *Server) Recent(token string) []Push {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Push
	for _, r := range s.recent[max(0, len(s.recent)-s.cfg.Keep):] {
		if token == "" || r.token == token {
			out = append(out, r.push)
		}
	}
	return out
}

// Begun returns how many messages have come, those included that are not answered yet.
func (s *Server) Begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

// Changed returns a channel that is closed when the next message has been received.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// ServeHTTP answers GET ?token= with {"pushes": [...]}, newest first: what the demo page
// shows. It is for development only: it tells everybody every push.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	pushes := s.Recent(r.URL.Query().Get("token"))
	const most = 100
	newest := make([]Push, 0, most)
	for i := len(pushes) - 1; i >= 0 && len(newest) < most; i-- {
		newest = append(newest, pushes[i])
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(map[string]any{"pushes": newest}); err != nil {
		s.cfg.Log.Debug("show pushes", "error", err)
	}
}

// accepted is FCM's answer to a message that it took.
func accepted() string {
	return fmt.Sprintf(`{"name":"projects/%s/messages/%s"}`, project, uuid.NewString())
}
