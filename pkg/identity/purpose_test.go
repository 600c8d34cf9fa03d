package identity_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

// A token is good for one audience and one type, also when the keys are the same.
func TestTokenIsForOnePurpose(t *testing.T) {
	t.Parallel()
	keys, _ := loadKeys(t)
	purposes := map[string]struct{ audience, typ string }{
		"apps": {"api", ""}, "console": {"console", identity.TypeConsole}, "apps' type, console's audience": {"console", ""},
		"console's type, apps' audience": {"api", identity.TypeConsole},
	}
	for of, made := range purposes {
		issuer, err := identity.NewIssuer(identity.IssuerConfig{Keys: keys, Issuer: "bondmate", Audience: made.audience, Type: made.typ, Clock: fixed(testNow)})
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := issuer.Issue(identity.Claims{UserID: uuid.New(), SessionID: uuid.New(), Role: identity.RoleAdmin})
		if err != nil {
			t.Fatal(err)
		}
		for at, asked := range purposes {
			verifier, err := identity.NewVerifier(identity.VerifierConfig{Keys: keys, Issuer: "bondmate", Audience: asked.audience, Type: asked.typ, Clock: fixed(testNow)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = verifier.Verify(t.Context(), token)
			if of == at && err != nil {
				t.Errorf("%s: %v", of, err)
			}
			if of != at && fault.KindOf(err) != fault.Unauthenticated {
				t.Errorf("a token of %s at %s: %v", of, at, err)
			}
		}
	}
}
