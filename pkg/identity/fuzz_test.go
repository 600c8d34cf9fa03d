package identity_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// Nobody makes a token without the key: of all texts only the one that was issued is
// accepted, and the rest is unauthenticated, with nobody's identity.
func FuzzVerify(f *testing.F) {
	keys, err := identity.LoadOrCreateDevelopmentKeys(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: testIssuer, Audience: testAudience, Clock: fixed(testNow)})
	if err != nil {
		f.Fatal(err)
	}
	valid, _, err := issuer.Issue(identity.Claims{UserID: uuid.New(), SessionID: uuid.New(), Role: identity.RoleUser})
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: testIssuer, Audience: testAudience, Clock: fixed(testNow)})
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(valid, ".")
	for _, token := range []string{
		valid, "", ".", "..", parts[0] + "." + parts[1] + ".", valid + "=", valid + "\n", " " + valid, parts[0] + "..", strings.Repeat("a.", 1000),
		"eyJhbGciOiJub25lIn0." + parts[1] + ".",
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := verifier.Verify(t.Context(), token)
		if token == valid {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err == nil || id != (identity.Identity{}) {
			t.Fatalf("%q is accepted as %+v, %v", token, id, err)
		}
		if fault.KindOf(err) != fault.Unauthenticated {
			t.Fatalf("%q: %v", token, err)
		}
	})
}

// A refresh token has one text: what is parsed prints as it was, so two texts never have one
// hash, and a child sealed under it opens under no other text.
func FuzzRefreshToken(f *testing.F) {
	for range 4 {
		f.Add(identity.NewRefreshToken().String())
	}
	f.Add("")
	f.Add(strings.Repeat("-", 64))
	f.Add(strings.Repeat("A", 63) + "\n")
	child := identity.NewRefreshToken()
	f.Fuzz(func(t *testing.T, text string) {
		token, ok := identity.ParseRefreshToken(text)
		if !ok {
			return
		}
		if token.String() != text {
			t.Fatalf("%q prints as %q", text, token.String())
		}
		if !bytes.Equal(token.Hash(), identity.HashSecret(text)) {
			t.Fatalf("%q: its hash is not that of its text", text)
		}
		sealed, err := token.Seal(child)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := token.Open(sealed); err != nil {
			t.Fatal(err)
		}
		if _, err := token.Next().Open(sealed); err == nil {
			t.Fatal("another token opens what this one sealed")
		}
	})
}

// However a partner code is typed, what comes out is ten characters of the alphabet and
// its own canonical form; case, spaces and hyphens change nothing.
func FuzzPartnerCode(f *testing.F) {
	for _, typed := range []string{identity.NewPartnerCode(), "o1l-i 0000 xyz", "ſıabcdefgh", "ABCDEFGHJKM", strings.Repeat("-", 64), "\x00\xff"} {
		f.Add(typed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		code, ok := identity.NormalizePartnerCode(typed)
		if !ok {
			return
		}
		if len(code) != identity.PartnerCodeLength || strings.Trim(code, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") != "" {
			t.Fatalf("%q gives %q", typed, code)
		}
		for _, same := range []string{code, strings.ToLower(code), " " + code[:5] + "-" + code[5:]} {
			if again, ok := identity.NormalizePartnerCode(same); !ok || again != code {
				t.Fatalf("%q gives %q, and %q gives %q", typed, code, same, again)
			}
		}
	})
}
