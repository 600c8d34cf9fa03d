package ingest_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/postgres/postgrestest"
)

// nowhere acknowledges everything at once.
type nowhere struct{}

func (nowhere) Produce(context.Context, contract.Record) error { return nil }

func (nowhere) Offsets(context.Context, string) (start, end []int64, err error) {
	return make([]int64, partitions), make([]int64, partitions), nil
}

func (nowhere) Subscribe(func(contract.Event)) (cancel func()) { return func() {} }

func (nowhere) Ready() <-chan struct{} { return make(chan struct{}) }

// BenchmarkSend is what a send costs in this package: routing, authentication,
// validation, binding, encoding and the answer; without a socket and without a broker.
func BenchmarkSend(b *testing.B) {
	pool := postgrestest.New(b)
	keys, err := devKeys()
	if err != nil {
		b.Fatal(err)
	}
	issuer, _ := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
	verifier, _ := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: "test", Audience: "test", Clock: time.Now})
	passwords, _ := identity.NewPasswords(identity.PasswordConfig{Memory: 64, Iterations: 1})
	log := slog.New(slog.DiscardHandler)
	service, err := accounts.New(accounts.Config{Pool: pool, Issuer: issuer, Passwords: passwords, Clock: time.Now, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	server, err := ingest.New(ingest.Config{
		Pool: pool, Publisher: nowhere{}, Offsets: nowhere{}, Events: nowhere{},
		Topics: contract.NewTopics("test"), Partitions: partitions,
		Accounts: service, Verifier: verifier, Keys: keys, Log: log, Registerer: prometheus.NewRegistry(), Clock: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	ana, err := service.Register(b.Context(), accounts.RegisterInput{Email: "ana@example.org", Password: "a long pass phrase", DisplayName: "Ana"})
	if err != nil {
		b.Fatal(err)
	}
	body := `{"toUserId":"` + uuid.NewString() + `","message":"It is me!"}`
	handler := server.Handler()
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/api/enhanced-partners/request", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+ana.AccessToken)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		if rec.Code != http.StatusAccepted {
			b.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
}
