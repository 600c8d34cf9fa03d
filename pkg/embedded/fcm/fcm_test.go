package fcm_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2/google"

	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// start runs a stand-in in dir for the length of the test.
func start(t *testing.T, dir string) *fcm.Server {
	t.Helper()
	s, err := fcm.New(fcm.Config{Dir: dir, Keep: 5, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return s
}

// client is an HTTP client with an access token of the stand-in.
func client(t *testing.T, s *fcm.Server) *http.Client {
	t.Helper()
	key, err := os.ReadFile(s.CredentialsFile())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := google.JWTConfigFromJSON(key, "scope")
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Client(t.Context())
}

func post(t *testing.T, c *http.Client, s *fcm.Server, body string) (int, string, http.Header) {
	t.Helper()
	url := fmt.Sprintf("%s/v1/projects/%s/messages:send", s.Endpoint(), s.ProjectID())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestServerAnswersAsFCMDoes(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	c := client(t, s)
	tests := []struct {
		name, body string
		status     int
		contains   string
	}{
		{"a message", `{"message":{"token":"a","data":{"v":"1"}}}`, 200, `"name":"projects/`},
		{"not JSON", `{`, 400, "INVALID_ARGUMENT"},
		{"no message", `{}`, 400, "INVALID_ARGUMENT"},
		{"no token", `{"message":{"data":{}}}`, 400, "INVALID_ARGUMENT"},
		{"data that are not strings", `{"message":{"token":"a","data":{"v":1}}}`, 400, "INVALID_ARGUMENT"},
		{"a reserved key", `{"message":{"token":"a","data":{"google.x":"1"}}}`, 400, "google.x"},
		{"too big", `{"message":{"token":"a","data":{"v":"` + strings.Repeat("x", 4096) + `"}}}`, 400, "too big"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			status, body, _ := post(t, c, s, tc.body)
			if status != tc.status || !strings.Contains(body, tc.contains) {
				t.Errorf("got %d %s, want %d with %q", status, body, tc.status, tc.contains)
			}
		})
	}
}

func TestServerWantsAValidToken(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	const body = `{"message":{"token":"a"}}`
	if status, answer, _ := post(t, http.DefaultClient, s, body); status != 401 {
		t.Errorf("without a token: got %d %s, want 401", status, answer)
	}
	c := client(t, s)
	if status, answer, _ := post(t, c, s, body); status != 200 {
		t.Errorf("with a token: got %d %s, want 200", status, answer)
	}
	s.RevokeTokens()
	if status, answer, _ := post(t, c, s, body); status != 401 {
		t.Errorf("with a revoked token: got %d %s, want 401", status, answer)
	}

	// Another installation's key must buy nothing here.
	other := start(t, t.TempDir())
	foreign, err := os.ReadFile(other.CredentialsFile())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := google.JWTConfigFromJSON(bytes.ReplaceAll(foreign, []byte(other.Endpoint()), []byte(s.Endpoint())))
	if err != nil {
		t.Fatal(err)
	}
	if token, err := cfg.TokenSource(t.Context()).Token(); err == nil {
		t.Errorf("a foreign key got token %v", token)
	}
	if got := len(other.Recent("")) + len(s.Recent("")); got != 1 {
		t.Errorf("kept %d messages, want only the one that was authorized", got)
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	c := client(t, s)
	s.Script("dead", fcm.Refuse(404, "NOT_FOUND", "UNREGISTERED"))
	s.Script("", fcm.Answer{Status: 500, Times: 2}, fcm.Refuse(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED").RetryAfter("7"),
		fcm.Answer{Drop: true})

	send := func(token string) (int, string, http.Header) {
		return post(t, c, s, `{"message":{"token":"`+token+`"}}`)
	}
	var got []int
	for range 2 {
		status, _, _ := send("dead-1")
		got = append(got, status)
	}
	status, _, _ := send("alive")
	got = append(got, status)
	status, body, header := send("alive")
	got = append(got, status)
	if header.Get("Retry-After") != "7" || !strings.Contains(body, "QUOTA_EXCEEDED") {
		t.Errorf("429 came with %v %s", header, body)
	}
	status, _, _ = send("alive")
	got = append(got, status)
	status, _, _ = send("alive")
	got = append(got, status)
	// The longer prefix first; then its owner falls to the shorter one.
	if diff := cmp.Diff([]int{404, 500, 500, 429, 0, 200}, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	statuses := []int{}
	for _, p := range s.Recent("alive") {
		statuses = append(statuses, p.Status)
	}
	if diff := cmp.Diff([]int{500, 429, 0, 200}, statuses); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
}

func TestPushesAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir)
	c := client(t, s)
	for i := range 7 { // Keep is 5
		post(t, c, s, fmt.Sprintf(`{"message":{"token":"phone-%d","data":{"n":"%d"}}}`, i%2, i))
	}
	if got := len(s.Recent("")); got != 5 {
		t.Errorf("%d messages in memory, want 5", got)
	}
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?token=phone-0", nil))
	var shown struct{ Pushes []fcm.Push }
	if err := json.Unmarshal(rec.Body.Bytes(), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.Pushes) != 3 || !strings.Contains(string(shown.Pushes[0].Message), `"n":"6"`) {
		t.Errorf("shown: %s, want those of phone-0, newest first", rec.Body)
	}
	rec = httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d, want 405", rec.Code)
	}

	f, err := os.Open(filepath.Join(dir, fcm.PushesName))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := 0
	for scan := bufio.NewScanner(f); scan.Scan(); lines++ {
		var line struct {
			Time    time.Time
			Status  int
			Message struct{ Token string }
		}
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Status != 200 || line.Message.Token != fmt.Sprintf("phone-%d", lines%2) || line.Time.IsZero() {
			t.Errorf("line %d is %s", lines, scan.Text())
		}
	}
	if lines != 7 {
		t.Errorf("%d lines, want 7", lines)
	}
}

func TestKeySurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	read := func() (key, uri string) {
		s, err := fcm.New(fcm.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		b, err := os.ReadFile(s.CredentialsFile())
		if err != nil {
			t.Fatal(err)
		}
		var sa struct {
			Key string `json:"private_key"`
			URI string `json:"token_uri"`
		}
		if err = json.Unmarshal(b, &sa); err != nil {
			t.Fatal(err)
		}
		if sa.URI != s.Endpoint()+"/token" {
			t.Errorf("token_uri %s, want it on %s", sa.URI, s.Endpoint())
		}
		info, err := os.Stat(s.CredentialsFile())
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
		}
		return sa.Key, sa.URI
	}
	first, _ := read()
	second, _ := read()
	if first != second {
		t.Error("the key changed")
	}
}
