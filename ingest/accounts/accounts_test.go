package accounts_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

const goodPassword = "correct horse"

// world is a service over a database of its own, with a clock that the test moves.
type world struct {
	*accounts.Service
	pool     *pgxpool.Pool
	verifier *identity.Verifier
	log      *syncBuffer

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newWorld(t *testing.T, change ...func(*accounts.Config)) *world {
	t.Helper()
	w := &world{
		pool: postgrestest.New(t),
		log:  &syncBuffer{},
		now:  time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := identity.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "bondmate", Audience: "bondmate", Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	w.verifier, err = identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: "bondmate", Audience: "bondmate", Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	passwords, err := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1, Waiting: 1000})
	if err != nil {
		t.Fatal(err)
	}
	cfg := accounts.Config{
		Pool:      w.pool,
		Issuer:    issuer,
		Passwords: passwords,
		Clock:     w.clock,
		Log:       slog.New(slog.NewTextHandler(w.log, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	w.Service, err = accounts.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) register(t *testing.T, email string) accounts.AuthResult {
	t.Helper()
	res, err := w.Register(t.Context(), accounts.RegisterInput{Email: email, Password: goodPassword, DisplayName: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *world) login(t *testing.T, email string) accounts.AuthResult {
	t.Helper()
	res, err := w.Login(t.Context(), accounts.LoginInput{Email: email, Password: goodPassword})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *world) device(t *testing.T, of accounts.AuthResult, token string) accounts.PushDevice {
	t.Helper()
	d, err := w.RegisterDevice(t.Context(), of.User.ID, of.SessionID, accounts.DeviceInput{Kind: "fcm", Token: token, Platform: "ios"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (w *world) count(t *testing.T, query string, args ...any) int {
	t.Helper()
	var n int
	if err := w.pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := w.pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func (w *world) active(t *testing.T, session uuid.UUID) bool {
	t.Helper()
	standing, err := w.Standing(t.Context(), session)
	if err != nil {
		t.Fatal(err)
	}
	return standing.Active
}

func wantCode(t *testing.T, what string, err error, kind fault.Kind, code string) {
	t.Helper()
	if fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Errorf("%s: error = %v, want %s", what, err, code)
	}
}

// together runs n calls that start at once and returns their errors.
func together(ctx context.Context, n int, call func(ctx context.Context, i int) error) []error {
	start := make(chan struct{})
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = call(ctx, i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func address(i int) string { return fmt.Sprintf("user%d@example.test", i) }
