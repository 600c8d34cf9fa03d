package identity

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/alexedwards/argon2id"
	"golang.org/x/text/unicode/norm"

	"github.com/bondmate/backend/pkg/fault"
)

// PasswordConfig configures Passwords. The zero value is OWASP's recommendation for
// argon2id (Password Storage Cheat Sheet: m = 19 MiB, t = 2, p = 1).
type PasswordConfig struct {
	Memory      uint32 // KiB a hash; default 19 × 1024
	Iterations  uint32 // default 2
	Parallelism uint8  // lanes of one hash; default 1
	Concurrent  int    // hashes at a time; default the number of CPUs
	Waiting     int    // callers that may wait for their turn; default 64
}

// Passwords hashes and compares passwords. At most Concurrent hashes run at a time and
// at most Waiting callers queue for them, so logins can take neither all memory nor an
// unbounded share of the CPU.
type Passwords struct {
	params  *argon2id.Params
	slots   chan struct{}
	waiting atomic.Int64
	limit   int64
	decoy   string // the hash that an unknown account is compared with
}

// NewPasswords returns Passwords; it computes one hash.
func NewPasswords(cfg PasswordConfig) (*Passwords, error) {
	if cfg.Memory == 0 {
		cfg.Memory = 19 * 1024
	}
	if cfg.Iterations == 0 {
		cfg.Iterations = 2
	}
	if cfg.Parallelism == 0 {
		cfg.Parallelism = 1
	}
	if cfg.Concurrent == 0 {
		cfg.Concurrent = runtime.GOMAXPROCS(0)
	}
	if cfg.Waiting == 0 {
		cfg.Waiting = 64
	}
	p := &Passwords{
		params: &argon2id.Params{
			Memory:      cfg.Memory,
			Iterations:  cfg.Iterations,
			Parallelism: cfg.Parallelism,
			SaltLength:  16,
			KeyLength:   32,
		},
		slots: make(chan struct{}, cfg.Concurrent),
		limit: int64(cfg.Waiting),
	}
	secret, _ := NewSecret()
	decoy, err := argon2id.CreateHash(secret, p.params)
	if err != nil {
		return nil, fmt.Errorf("hash the decoy password: %w", err)
	}
	p.decoy = decoy
	return p, nil
}

// Hash returns the PHC string to store for a password. When too many callers wait, or
// ctx ends before it is this one's turn, the error is a fault overloaded.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if err := p.acquire(ctx); err != nil {
		return "", err
	}
	defer p.release()
	hash, err := argon2id.CreateHash(normalise(password), p.params)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}

// Compare reports whether a password is the one that was hashed, and when it is,
// whether the hash was made with other parameters than today's and should be replaced.
// An empty hash stands for an account that does not exist: it never matches, and takes
// as long as one that does, so that time does not tell who has an account.
func (p *Passwords) Compare(ctx context.Context, password, hash string) (match, outdated bool, err error) {
	if err := p.acquire(ctx); err != nil {
		return false, false, err
	}
	defer p.release()
	known := hash != ""
	if !known {
		hash = p.decoy
	}
	match, params, err := argon2id.CheckHash(normalise(password), hash)
	if err != nil {
		return false, false, fmt.Errorf("compare password: %w", err)
	}
	if !match || !known {
		return false, false, nil
	}
	return true, *params != *p.params, nil
}

func (p *Passwords) acquire(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > p.limit {
		return overloaded(nil)
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return overloaded(ctx.Err())
	}
}

func (p *Passwords) release() { <-p.slots }

// normalise makes the bytes independent of how a keyboard composes an accent (NFC, as
// the OpaqueString profile of RFC 8265 asks).
func normalise(password string) string { return norm.NFC.String(password) }

func overloaded(cause error) error {
	e := fault.Wrap(cause, fault.Unavailable, "overloaded", "Too many sign-ins are under way.")
	e.RetryAfter = time.Second
	return e
}
