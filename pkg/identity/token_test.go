package identity_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

const (
	testIssuer   = "https://bondmate.test"
	testAudience = "bondmate"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func fixed(t time.Time) func() time.Time { return func() time.Time { return t } }

func newPair(t *testing.T, keys *identity.Keys, clock func() time.Time) (*identity.Issuer, *identity.Verifier) {
	t.Helper()
	issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: testIssuer, Audience: testAudience, Clock: fixed(testNow)})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: testIssuer, Audience: testAudience, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	return issuer, verifier
}

func TestVerifyAcceptsWhatWasIssued(t *testing.T) {
	t.Parallel()
	now := testNow
	keys, _ := loadKeys(t)
	issuer, verifier := newPair(t, keys, func() time.Time { return now })
	want := identity.Identity{UserID: uuid.New(), SessionID: uuid.New(), Role: identity.RoleSupport, ExpiresAt: testNow.Add(15 * time.Minute)}
	token, expiresAt, err := issuer.Issue(identity.Claims{UserID: want.UserID, SessionID: want.SessionID, Role: want.Role})
	if err != nil {
		t.Fatal(err)
	}
	if !expiresAt.Equal(want.ExpiresAt) {
		t.Errorf("expiresAt = %s, want %s", expiresAt, want.ExpiresAt)
	}
	for _, at := range []time.Duration{0, time.Minute, 15*time.Minute - time.Second} { // first parsed, then cached
		now = testNow.Add(at)
		got, err := verifier.Verify(t.Context(), token)
		if err != nil {
			t.Fatalf("after %s: %v", at, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %s: identity (-want +got):\n%s", at, diff)
		}
	}
	for range 2 { // once from the cache, once parsed again
		now = testNow.Add(15 * time.Minute)
		if _, err := verifier.Verify(t.Context(), token); fault.CodeOf(err) != "token_expired" {
			t.Errorf("at exp: error %v, want token_expired", err)
		}
	}
}

// TestVerifyRefuses is the table of attacks on a token. Each case differs from a good
// token, which the first case shows to pass, in the named way alone.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	keys, private := loadKeys(t)
	_, stranger := loadKeys(t)
	_, verifier := newPair(t, keys, fixed(testNow))

	good := jwt.MapClaims{
		"iss": testIssuer, "aud": testAudience, "sub": uuid.NewString(), "sid": uuid.NewString(), "jti": uuid.NewString(),
		"typ": "access", "role": "user", "iat": testNow.Unix(), "nbf": testNow.Unix(), "exp": testNow.Add(time.Minute).Unix(),
	}
	with := func(changes jwt.MapClaims) jwt.MapClaims {
		c := maps.Clone(good)
		for k, v := range changes {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return c
	}
	sign := func(method jwt.SigningMethod, kid any, key any, c jwt.MapClaims) string {
		tok := jwt.NewWithClaims(method, c)
		if kid != nil {
			tok.Header["kid"] = kid
		}
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	kid := keys.SigningID(testNow)
	rs256 := func(changes jwt.MapClaims) string { return sign(jwt.SigningMethodRS256, kid, private, with(changes)) }
	publicDER, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	valid := rs256(nil)
	parts := strings.Split(valid, ".")
	refresh := identity.NewRefreshToken().String()

	tests := map[string]struct {
		token string
		code  string // empty: accepted
	}{
		"good":                             {valid, ""},
		"empty":                            {"", "unauthenticated"},
		"alg none":                         {sign(jwt.SigningMethodNone, kid, jwt.UnsafeAllowNoneSignatureType, good), "unauthenticated"},
		"alg none, good signature":         {header(t, map[string]any{"alg": "none", "kid": kid}) + "." + parts[1] + "." + parts[2], "unauthenticated"},
		"alg nOnE":                         {header(t, map[string]any{"alg": "nOnE", "kid": kid}) + "." + parts[1] + ".", "unauthenticated"},
		"HS256 with the public PEM":        {sign(jwt.SigningMethodHS256, kid, publicPEM, good), "unauthenticated"},
		"HS256 with the public DER":        {sign(jwt.SigningMethodHS256, kid, publicDER, good), "unauthenticated"},
		"HS256 with the modulus":           {sign(jwt.SigningMethodHS256, kid, private.N.Bytes(), good), "unauthenticated"},
		"RS512 with the right key":         {sign(jwt.SigningMethodRS512, kid, private, good), "unauthenticated"},
		"PS256 with the right key":         {sign(jwt.SigningMethodPS256, kid, private, good), "unauthenticated"},
		"another key under our kid":        {sign(jwt.SigningMethodRS256, kid, stranger, good), "unauthenticated"},
		"unknown kid":                      {sign(jwt.SigningMethodRS256, "nobody", stranger, good), "unauthenticated"},
		"unknown kid, right key":           {sign(jwt.SigningMethodRS256, "nobody", private, good), "unauthenticated"},
		"kid is a path":                    {sign(jwt.SigningMethodRS256, "../../dev/null", private, good), "unauthenticated"},
		"kid is a number":                  {sign(jwt.SigningMethodRS256, 7, private, good), "unauthenticated"},
		"no kid":                           {sign(jwt.SigningMethodRS256, nil, private, good), "unauthenticated"},
		"own key in the header":            {embedded(t, stranger, good), "unauthenticated"},
		"wrong issuer":                     {rs256(jwt.MapClaims{"iss": "https://evil.test"}), "unauthenticated"},
		"no issuer":                        {rs256(jwt.MapClaims{"iss": nil}), "unauthenticated"},
		"wrong audience":                   {rs256(jwt.MapClaims{"aud": "other"}), "unauthenticated"},
		"no audience":                      {rs256(jwt.MapClaims{"aud": nil}), "unauthenticated"},
		"wrong typ":                        {rs256(jwt.MapClaims{"typ": "refresh"}), "unauthenticated"},
		"no typ":                           {rs256(jwt.MapClaims{"typ": nil}), "unauthenticated"},
		"no jti":                           {rs256(jwt.MapClaims{"jti": nil}), "unauthenticated"},
		"no subject":                       {rs256(jwt.MapClaims{"sub": nil}), "unauthenticated"},
		"subject is no id":                 {rs256(jwt.MapClaims{"sub": "admin"}), "unauthenticated"},
		"no session":                       {rs256(jwt.MapClaims{"sid": nil}), "unauthenticated"},
		"unknown role":                     {rs256(jwt.MapClaims{"role": "root"}), "unauthenticated"},
		"no role":                          {rs256(jwt.MapClaims{"role": nil}), "unauthenticated"},
		"expired":                          {rs256(jwt.MapClaims{"exp": testNow.Add(-time.Second).Unix()}), "token_expired"},
		"expires now":                      {rs256(jwt.MapClaims{"exp": testNow.Unix()}), "token_expired"},
		"expired, wrong audience":          {rs256(jwt.MapClaims{"exp": testNow.Add(-time.Second).Unix(), "aud": "other"}), "unauthenticated"},
		"expired, wrong issuer":            {rs256(jwt.MapClaims{"exp": testNow.Add(-time.Second).Unix(), "iss": "other"}), "unauthenticated"},
		"expired, wrong typ":               {rs256(jwt.MapClaims{"exp": testNow.Add(-time.Second).Unix(), "typ": "id"}), "unauthenticated"},
		"expired, wrong key":               {sign(jwt.SigningMethodRS256, kid, stranger, with(jwt.MapClaims{"exp": testNow.Add(-time.Second).Unix()})), "unauthenticated"},
		"never expires":                    {rs256(jwt.MapClaims{"exp": nil}), "unauthenticated"},
		"exp is text":                      {rs256(jwt.MapClaims{"exp": "tomorrow"}), "unauthenticated"},
		"not yet valid":                    {rs256(jwt.MapClaims{"nbf": testNow.Add(time.Second).Unix()}), "unauthenticated"},
		"no nbf":                           {rs256(jwt.MapClaims{"nbf": nil}), "unauthenticated"},
		"valid in a time that wraps":       {rs256(jwt.MapClaims{"nbf": 1e300}), "unauthenticated"},
		"expired, no nbf":                  {rs256(jwt.MapClaims{"exp": testNow.Add(-time.Second).Unix(), "nbf": nil}), "unauthenticated"},
		"crit":                             {critical(t, private, kid, good), "unauthenticated"},
		"refresh token as access token":    {refresh, "unauthenticated"},
		"truncated":                        {valid[:len(valid)-1], "unauthenticated"},
		"no signature":                     {parts[0] + "." + parts[1] + ".", "unauthenticated"},
		"two parts":                        {parts[0] + "." + parts[1], "unauthenticated"},
		"four parts":                       {valid + "." + parts[2], "unauthenticated"},
		"payload of another":               {parts[0] + "." + strings.Split(rs256(jwt.MapClaims{"role": "admin"}), ".")[1] + "." + parts[2], "unauthenticated"},
		"trailing space":                   {valid + " ", "unauthenticated"},
		"trailing line end":                {valid + "\n", "unauthenticated"},
		"line end within":                  {parts[0] + ".\r\n" + parts[1] + "." + parts[2], "unauthenticated"},
		"huge":                             {valid + strings.Repeat("A", 1<<20), "unauthenticated"},
		"huge and validly signed":          {rs256(jwt.MapClaims{"x": strings.Repeat("A", 5000)}), "unauthenticated"},
		"dots":                             {strings.Repeat(".", 4000), "unauthenticated"},
		"signature with other base64 bits": {flipLastBits(valid), "unauthenticated"},
	}
	// The good token is remembered first: nothing that resembles it may profit.
	if _, err := verifier.Verify(t.Context(), valid); err != nil {
		t.Fatal(err)
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 2 { // the second time would meet a wrongly cached verdict
				id, err := verifier.Verify(t.Context(), tc.token)
				if tc.code == "" {
					if err != nil || id.UserID.String() != good["sub"] {
						t.Fatalf("Verify = %+v, %v, want the good token's identity", id, err)
					}
					continue
				}
				if fault.CodeOf(err) != tc.code || fault.KindOf(err) != fault.Unauthenticated {
					t.Fatalf("error = %v, want code %s", err, tc.code)
				}
				if diff := cmp.Diff(identity.Identity{}, id); diff != "" {
					t.Fatalf("identity with an error:\n%s", diff)
				}
			}
		})
	}
}

func header(t *testing.T, h map[string]any) string {
	t.Helper()
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// embedded signs with the attacker's key and offers that key in the header, under the
// thumbprint it truly has.
func embedded(t *testing.T, key *rsa.PrivateKey, c jwt.MapClaims) string {
	t.Helper()
	keys, err := identity.LoadKeys(writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)))
	if err != nil {
		t.Fatal(err)
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	tok.Header["kid"] = keys.SigningID(testNow)
	tok.Header["jwk"] = keys.JWKS().Keys[0]
	tok.Header["jku"] = "https://evil.test/jwks.json"
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// critical is signed as it should be and demands that an extension be understood.
func critical(t *testing.T, key *rsa.PrivateKey, kid string, c jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	tok.Header["kid"], tok.Header["crit"], tok.Header["exp2"] = kid, []string{"exp2"}, 1
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// flipLastBits changes the bits of the last character that base64 ignores when it
// decodes loosely: the same signature under another spelling.
func flipLastBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last^1])
}

func TestVerifyIsBounded(t *testing.T) {
	t.Parallel()
	keys, _ := loadKeys(t)
	issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: testIssuer, Audience: testAudience, Clock: fixed(testNow)})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: testIssuer, Audience: testAudience, Clock: fixed(testNow), CacheSize: 4})
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		token, _, err := issuer.Issue(identity.Claims{UserID: uuid.New(), SessionID: uuid.New(), Role: identity.RoleUser})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := verifier.Verify(t.Context(), token); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := identity.CachedTokens(verifier); got > 4 {
		t.Errorf("cache holds %d tokens, want at most 4", got)
	}
}

func loadKeys(t *testing.T) (*identity.Keys, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := identity.LoadKeys(writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)))
	if err != nil {
		t.Fatal(err)
	}
	return keys, key
}
