package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"

	"github.com/bondmate/backend/pkg/fault"
)

const (
	// DefaultTTL is how long an access token lives.
	DefaultTTL = 15 * time.Minute

	// TypeAccess is the typ of what apps carry in Authorization: the default.
	TypeAccess = "access"
	// TypeConsole is the typ of what the operators' page has in its cookie.
	TypeConsole = "console"
	// notBeforeSkew backdates nbf: a token is used within milliseconds, often at
	// another instance, whose clock may be a little behind.
	notBeforeSkew = 30 * time.Second
	// maxTokenBytes bounds what is hashed and decoded for a stranger; ours are under 1 KiB.
	maxTokenBytes = 4 << 10
	// defaultCacheSize is about 2 MB of verified tokens.
	defaultCacheSize = 10_000
)

// algorithm is pinned: nothing in a token chooses how it is verified.
var algorithm = jwt.SigningMethodRS256

// claims is the payload on the wire.
type claims struct {
	jwt.RegisteredClaims
	Type      string `json:"typ"`
	SessionID string `json:"sid"`
	Role      string `json:"role"`

	want string // the typ that the verifier takes; nothing on the wire
}

// errClaims says that a signed token is not one of ours for this purpose.
var errClaims = errors.New("not a token for this purpose")

// Validate implements jwt.ClaimsValidator; the parser calls it after its own checks.
func (c *claims) Validate() error {
	if c.Type != c.want || c.ID == "" || !c.times() {
		return errClaims
	}
	return nil
}

// times reports whether nbf and exp are times of this world: a number too large for a time
// wraps around on reading, and what is never valid looks as if it had always been.
func (c *claims) times() bool {
	for _, at := range []*jwt.NumericDate{c.NotBefore, c.ExpiresAt} {
		if at != nil && (at.Before(time.Unix(0, 0)) || at.Year() > 9999) {
			return false
		}
	}
	return true
}

// Claims is what an access token says.
type Claims struct {
	UserID    uuid.UUID
	SessionID uuid.UUID
	Role      Role
}

// IssuerConfig configures an Issuer.
type IssuerConfig struct {
	Keys     *Keys
	Issuer   string
	Audience string
	Type     string        // default TypeAccess
	TTL      time.Duration // default DefaultTTL
	Clock    func() time.Time
}

// Issuer signs access tokens.
type Issuer struct {
	cfg IssuerConfig
}

// NewIssuer returns an issuer that signs with the keys' signing key.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	if cfg.Keys == nil || cfg.Clock == nil || cfg.Issuer == "" || cfg.Audience == "" {
		return nil, errors.New("token issuer: keys, clock, issuer and audience are required")
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Type == "" {
		cfg.Type = TypeAccess
	}
	return &Issuer{cfg: cfg}, nil
}

// Issue signs an access token and returns it with the time at which it expires.
func (i *Issuer) Issue(c Claims) (token string, expiresAt time.Time, err error) {
	now := i.cfg.Clock().UTC().Truncate(time.Second)
	expiresAt = now.Add(i.cfg.TTL)
	t := jwt.NewWithClaims(algorithm, &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID:        uuid.NewString(),
			Issuer:    i.cfg.Issuer,
			Audience:  jwt.ClaimStrings{i.cfg.Audience},
			Subject:   c.UserID.String(),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now.Add(-notBeforeSkew)),
			ExpiresAt: jwt.NewNumericDate(expiresAt),
		},
		Type:      i.cfg.Type,
		SessionID: c.SessionID.String(),
		Role:      c.Role.String(),
	})
	signer := i.cfg.Keys.signer(now)
	t.Header["kid"] = signer.id
	token, err = t.SignedString(signer.key)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign access token: %w", err)
	}
	return token, expiresAt, nil
}

// VerifierConfig configures a Verifier.
type VerifierConfig struct {
	Keys      *Keys
	Issuer    string
	Audience  string
	Type      string // default TypeAccess
	Clock     func() time.Time
	CacheSize int // tokens; default 10,000
}

// Verifier checks access tokens. It remembers those that it has verified, by their
// hash and until they expire, because the signature is most of a request's CPU. It
// remembers no failure: a flood of bad tokens takes no memory.
type Verifier struct {
	keys     *Keys
	typ      string
	parser   *jwt.Parser
	clock    func() time.Time
	verified *otter.Cache[[sha256.Size]byte, verified]
}

// NewVerifier returns a verifier of tokens for one issuer and audience.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	if cfg.Keys == nil || cfg.Clock == nil || cfg.Issuer == "" || cfg.Audience == "" {
		return nil, errors.New("token verifier: keys, clock, issuer and audience are required")
	}
	if cfg.Type == "" {
		cfg.Type = TypeAccess
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	// Bounded by size alone: expiry is checked on reading, and the cache then needs no
	// goroutine that somebody would have to stop.
	cache, err := otter.New(&otter.Options[[sha256.Size]byte, verified]{MaximumSize: cfg.CacheSize})
	if err != nil {
		return nil, fmt.Errorf("cache of verified tokens: %w", err)
	}
	return &Verifier{
		keys:     cfg.Keys,
		typ:      cfg.Type,
		clock:    cfg.Clock,
		verified: cache,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{algorithm.Alg()}),
			jwt.WithIssuer(cfg.Issuer),
			jwt.WithAudience(cfg.Audience),
			jwt.WithExpirationRequired(),
			jwt.WithNotBeforeRequired(),
			jwt.WithStrictDecoding(),
			jwt.WithTimeFunc(cfg.Clock),
		),
	}, nil
}

// Verify returns whom an access token speaks for. Every failure is a fault of kind
// Unauthenticated: token_expired when the token is right but for its time, so that the
// client refreshes, and unauthenticated otherwise. It does not ask whether the session
// still exists.
func (v *Verifier) Verify(_ context.Context, token string) (Identity, error) {
	if token == "" || len(token) > maxTokenBytes || strings.ContainsAny(token, "\r\n") {
		return Identity{}, unauthenticated(nil) // base64 passes over line ends: one token, many texts
	}
	hash := sha256.Sum256([]byte(token))
	if before, ok := v.verified.GetIfPresent(hash); ok {
		_, trusted := v.keys.verifying(before.kid)
		if trusted && v.clock().Before(before.ExpiresAt) {
			return before.Identity, nil
		}
		v.verified.Invalidate(hash)
		if trusted {
			return Identity{}, expired(nil)
		}
	}
	id, err := v.parse(token)
	if err != nil {
		return Identity{}, err
	}
	v.verified.Set(hash, id)
	return id.Identity, nil
}

// verified is a token that was found good, with the key that it rests on: who takes a key
// out of the file ends its tokens at once.
type verified struct {
	Identity
	kid string
}

func (v *Verifier) parse(token string) (verified, error) {
	c := claims{want: v.typ}
	parsed, err := v.parser.ParseWithClaims(token, &c, v.key)
	if err != nil {
		if errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidIssuer) &&
			!errors.Is(err, jwt.ErrTokenInvalidAudience) && !errors.Is(err, jwt.ErrTokenRequiredClaimMissing) && !errors.Is(err, errClaims) {
			return verified{}, expired(err)
		}
		return verified{}, unauthenticated(err)
	}
	userID, err := uuid.Parse(c.Subject)
	if err != nil {
		return verified{}, unauthenticated(err)
	}
	sessionID, err := uuid.Parse(c.SessionID)
	if err != nil {
		return verified{}, unauthenticated(err)
	}
	role, err := ParseRole(c.Role)
	if err != nil {
		return verified{}, unauthenticated(err)
	}
	kid, _ := parsed.Header["kid"].(string) // key has found it
	return verified{Identity{UserID: userID, SessionID: sessionID, Role: role, ExpiresAt: c.ExpiresAt.Time}, kid}, nil
}

// key finds the key that a token names. An unknown kid is final: keys come from files,
// nothing is fetched, so a flood of unknown ids costs a map look-up each.
func (v *Verifier) key(t *jwt.Token) (any, error) {
	// RFC 7515 asks for it: what crit names must be understood, and nothing is here.
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New("token demands an extension")
	}
	kid, ok := t.Header["kid"].(string)
	if !ok {
		return nil, errors.New("token names no key")
	}
	key, ok := v.keys.verifying(kid)
	if !ok {
		return nil, errors.New("token names an unknown key")
	}
	return key, nil
}

func unauthenticated(cause error) error {
	return fault.Wrap(cause, fault.Unauthenticated, "unauthenticated", "The access token is not valid.")
}

func expired(cause error) error {
	return fault.Wrap(cause, fault.Unauthenticated, "token_expired", "The access token has expired.")
}
