package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/identity"
)

// forger makes tokens that differ from a good one in one way each. It has the server's own
// key, so that what it says of a token is all that is wrong with the token.
type forger struct {
	t        *testing.T
	kid      string
	key      *rsa.PrivateKey
	stranger *rsa.PrivateKey
	good     jwt.MapClaims // of a live session
	valid    string
}

// newForger forges what a person's own token resembles.
func newForger(t *testing.T, w *town, victim *person) *forger {
	t.Helper()
	file := identity.DevelopmentKeyFile(w.dir)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := identity.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{
		t: t, kid: keys.SigningID(time.Now()), key: key.(*rsa.PrivateKey), stranger: stranger,
		good: jwt.MapClaims{}, valid: victim.token,
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(victim.token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &f.good); err != nil {
		t.Fatal(err)
	}
	return f
}

// with returns the good claims with changes; nil takes a claim away.
func (f *forger) with(changes jwt.MapClaims) jwt.MapClaims {
	c := maps.Clone(f.good)
	for name, value := range changes {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

// sign signs claims with whatever key under whatever header.
func (f *forger) sign(method jwt.SigningMethod, header map[string]any, key any, c jwt.MapClaims) string {
	f.t.Helper()
	token := jwt.NewWithClaims(method, c)
	token.Header["kid"] = f.kid
	for name, value := range header {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	text, err := token.SignedString(key)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// claims is a token that the server itself would sign, but for these claims.
func (f *forger) claims(changes jwt.MapClaims) string {
	return f.sign(jwt.SigningMethodRS256, nil, f.key, f.with(changes))
}

// header is the good token under another header, signed with the server's own key.
func (f *forger) header(changes map[string]any) string {
	return f.sign(jwt.SigningMethodRS256, changes, f.key, f.good)
}

// headed puts another header before the good token's payload and signature.
func (f *forger) headed(header map[string]any) string {
	return f.encode(header) + f.valid[strings.Index(f.valid, "."):]
}

func (f *forger) encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// forgedToken is what somebody presents for an access token, and the code that it gets.
type forgedToken struct {
	token string
	code  string // default unauthenticated
}

// tokens is the table of attacks on an access token. spare holds what is a credential, but
// for something else.
func (f *forger) tokens(spare map[string]string) map[string]forgedToken {
	publicDER, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		f.t.Fatal(err)
	}
	jwk := func(key *rsa.PrivateKey) map[string]any {
		n := base64.RawURLEncoding.EncodeToString(key.N.Bytes())
		e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
		sum := sha256.Sum256([]byte(`{"e":"` + e + `","kty":"RSA","n":"` + n + `"}`))
		return map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": base64.RawURLEncoding.EncodeToString(sum[:]), "n": n, "e": e}
	}
	ours, theirs := jwk(f.key), jwk(f.stranger)
	jwkText, err := json.Marshal(ours)
	if err != nil {
		f.t.Fatal(err)
	}
	hmac := func(key []byte) string { return f.sign(jwt.SigningMethodHS256, nil, key, f.good) }
	foreign := func(header map[string]any) string {
		return f.sign(jwt.SigningMethodRS256, header, f.stranger, f.good)
	}
	parts := strings.Split(f.valid, ".")
	past, future := time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Hour).Unix()
	table := map[string]forgedToken{
		"alg none":                        {token: f.sign(jwt.SigningMethodNone, nil, jwt.UnsafeAllowNoneSignatureType, f.good)},
		"alg none, the good signature":    {token: f.headed(map[string]any{"alg": "none", "kid": f.kid})},
		"alg NonE, no signature":          {token: f.encode(map[string]any{"alg": "NonE", "kid": f.kid}) + "." + parts[1] + "."},
		"alg empty":                       {token: f.headed(map[string]any{"alg": "", "kid": f.kid})},
		"no alg":                          {token: f.headed(map[string]any{"kid": f.kid})},
		"HS256 with the public PEM":       {token: hmac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}))},
		"HS256 with the public DER":       {token: hmac(publicDER)},
		"HS256 with the PKCS 1 PEM":       {token: hmac(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&f.key.PublicKey)}))},
		"HS256 with the public JWK":       {token: hmac(jwkText)},
		"HS256 with the modulus":          {token: hmac(f.key.N.Bytes())},
		"HS256 with the kid":              {token: hmac([]byte(f.kid))},
		"HS256 with nothing":              {token: hmac([]byte{})},
		"RS512 with our key":              {token: f.sign(jwt.SigningMethodRS512, nil, f.key, f.good)},
		"PS256 with our key":              {token: f.sign(jwt.SigningMethodPS256, nil, f.key, f.good)},
		"another key under our kid":       {token: foreign(nil)},
		"another key under its own kid":   {token: foreign(map[string]any{"kid": theirs["kid"]})},
		"unknown kid, our key":            {token: f.header(map[string]any{"kid": "nobody"})},
		"kid is a path":                   {token: f.header(map[string]any{"kid": "../../../../dev/null"})},
		"kid is SQL":                      {token: f.header(map[string]any{"kid": "' OR 1=1 --"})},
		"kid is a number":                 {token: f.header(map[string]any{"kid": 7})},
		"kid is a list":                   {token: f.header(map[string]any{"kid": []string{f.kid}})},
		"no kid":                          {token: f.header(map[string]any{"kid": nil})},
		"own key as jwk":                  {token: foreign(map[string]any{"kid": theirs["kid"], "jwk": theirs})},
		"own key as jwk under our kid":    {token: foreign(map[string]any{"jwk": theirs})},
		"own key by jku":                  {token: foreign(map[string]any{"kid": theirs["kid"], "jku": "http://127.0.0.1:1/jwks.json"})},
		"own key by x5u":                  {token: foreign(map[string]any{"kid": theirs["kid"], "x5u": "http://127.0.0.1:1/key.pem"})},
		"own key by x5c":                  {token: foreign(map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(publicDER)}})},
		"crit names what is not known":    {token: f.header(map[string]any{"crit": []string{"exp2"}, "exp2": 1})},
		"crit names b64":                  {token: f.header(map[string]any{"crit": []string{"b64"}, "b64": true})},
		"crit is empty":                   {token: f.header(map[string]any{"crit": []string{}})},
		"wrong issuer":                    {token: f.claims(jwt.MapClaims{"iss": "https://evil.example"})},
		"no issuer":                       {token: f.claims(jwt.MapClaims{"iss": nil})},
		"wrong audience":                  {token: f.claims(jwt.MapClaims{"aud": "another-api"})},
		"no audience":                     {token: f.claims(jwt.MapClaims{"aud": nil})},
		"wrong typ":                       {token: f.claims(jwt.MapClaims{"typ": "refresh"})},
		"typ of an ID token":              {token: f.claims(jwt.MapClaims{"typ": "id"})},
		"no typ":                          {token: f.claims(jwt.MapClaims{"typ": nil})},
		"no session":                      {token: f.claims(jwt.MapClaims{"sid": nil})},
		"a session that never was":        {token: f.claims(jwt.MapClaims{"sid": uuid.NewString()})},
		"no subject":                      {token: f.claims(jwt.MapClaims{"sub": nil})},
		"subject is a name":               {token: f.claims(jwt.MapClaims{"sub": "admin"})},
		"a role that there is not":        {token: f.claims(jwt.MapClaims{"role": "root"})},
		"expired":                         {f.claims(jwt.MapClaims{"exp": past}), "token_expired"},
		"expired, wrong audience":         {token: f.claims(jwt.MapClaims{"exp": past, "aud": "another-api"})},
		"expired, another key":            {token: f.sign(jwt.SigningMethodRS256, nil, f.stranger, f.with(jwt.MapClaims{"exp": past}))},
		"never expires":                   {token: f.claims(jwt.MapClaims{"exp": nil})},
		"not yet valid":                   {token: f.claims(jwt.MapClaims{"nbf": future})},
		"no nbf":                          {token: f.claims(jwt.MapClaims{"nbf": nil})},
		"truncated by one":                {token: f.valid[:len(f.valid)-1]},
		"truncated by half":               {token: f.valid[:len(f.valid)/2]},
		"no signature":                    {token: parts[0] + "." + parts[1] + "."},
		"two parts":                       {token: parts[0] + "." + parts[1]},
		"four parts":                      {token: f.valid + "." + parts[2]},
		"trailing garbage":                {token: f.valid + "x"},
		"trailing dot":                    {token: f.valid + "."},
		"a token behind a comma":          {token: f.valid + ", " + f.valid},
		"payload of an admin":             {token: parts[0] + "." + f.encode(f.with(jwt.MapClaims{"role": "admin"})) + "." + parts[2]},
		"padded base64":                   {token: f.valid + "=="},
		"signature of zeros":              {token: parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 256))},
		"larger than a token may be":      {token: f.claims(jwt.MapClaims{"x": strings.Repeat("A", 5000)})},
		"dots":                            {token: strings.Repeat(".", 3000)},
		"words":                           {token: "null"},
		"a JSON object for a token":       {token: `{"role":"admin"}`},
		"nested objects for a header":     {token: base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(`{"a":`, 500))) + "." + parts[1] + "." + parts[2]},
		"the session of another's, ours":  {token: f.claims(jwt.MapClaims{"sub": uuid.NewString(), "sid": uuid.NewString()})},
		"expired for long, with no nbf":   {token: f.claims(jwt.MapClaims{"exp": 1, "nbf": nil})},
		"times beyond what a float holds": {token: f.claims(jwt.MapClaims{"nbf": 1e300})},
	}
	for name, token := range spare {
		table[name+" as access token"] = forgedToken{token: token}
	}
	for name, forged := range table {
		if forged.code == "" {
			forged.code = "unauthenticated"
			table[name] = forged
		}
	}
	return table
}

// places is where else somebody could put a good token, or how else spell it: what only
// looks like `Authorization: Bearer`, once.
func (f *forger) places() map[string]func(*http.Request) {
	authorization := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Authorization"] = values }
	}
	return map[string]func(*http.Request){
		"no header":             func(*http.Request) {},
		"empty":                 authorization(""),
		"a scheme alone":        authorization("Bearer"),
		"a scheme and a space":  authorization("Bearer "),
		"no scheme":             authorization(f.valid),
		"Basic":                 authorization("Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+f.valid))),
		"another scheme":        authorization("Token " + f.valid),
		"two schemes":           authorization("Bearer Bearer " + f.valid),
		"a tab":                 authorization("Bearer\t" + f.valid),
		"a colon":               authorization("Bearer: " + f.valid),
		"quoted":                authorization(`Bearer "` + f.valid + `"`),
		"twice the same":        authorization("Bearer "+f.valid, "Bearer "+f.valid),
		"a good one, then none": authorization("Bearer "+f.valid, ""),
		"a good one, then bad":  authorization("Bearer "+f.valid, "Bearer x"),
		"a bad one, then good":  authorization("Bearer x", "Bearer "+f.valid),
		"both in one line":      authorization("Bearer " + f.valid + ", Bearer " + f.valid),
		"in a cookie": func(r *http.Request) {
			r.Header.Set("Cookie", "access_token="+f.valid+"; Authorization=Bearer "+f.valid)
		},
		"in the query": func(r *http.Request) {
			r.URL.RawQuery = "access_token=" + f.valid + "&token=" + f.valid + "&authorization=Bearer%20" + f.valid
		},
		"in a header of a proxy": func(r *http.Request) {
			for _, name := range []string{"Proxy-Authorization", "X-Authorization", "X-Forwarded-Authorization", "X-Access-Token", "X-Auth-Token"} {
				r.Header.Set(name, "Bearer "+f.valid)
			}
		},
		"who says who they are": func(r *http.Request) {
			for _, name := range []string{"X-User-Id", "X-Forwarded-User", "X-Remote-User", "Remote-User"} {
				r.Header.Set(name, f.good["sub"].(string))
			}
		},
	}
}
