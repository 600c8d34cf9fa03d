package identity_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bondmate/backend/pkg/identity"
)

func TestNewSecret(t *testing.T) {
	t.Parallel()
	a, hash := identity.NewSecret()
	b, _ := identity.NewSecret()
	if a == b || len(a) != 43 {
		t.Errorf("secrets %q and %q, want two of 43 characters", a, b)
	}
	if !bytes.Equal(hash, identity.HashSecret(a)) || len(hash) != 32 {
		t.Errorf("hash %x is not that of the secret", hash)
	}
}

func TestRefreshTokenChain(t *testing.T) {
	t.Parallel()
	parent := identity.NewRefreshToken()
	child := parent.Next()
	if parent.String() == child.String() || bytes.Equal(parent.Hash(), child.Hash()) {
		t.Error("a child equals its parent")
	}
	if !bytes.Equal(parent.FamilyHash(), child.FamilyHash()) {
		t.Error("a child is of another family")
	}
	if bytes.Equal(parent.FamilyHash(), identity.NewRefreshToken().FamilyHash()) {
		t.Error("two families are one")
	}
	parsed, ok := identity.ParseRefreshToken(child.String())
	if !ok || parsed != child {
		t.Errorf("ParseRefreshToken = %v, %t", parsed, ok)
	}

	sealed, err := parent.Seal(child)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := parent.Open(sealed)
	if err != nil || opened != child {
		t.Errorf("Open = %v, %v, want the child", opened, err)
	}
	if _, err := child.Open(sealed); err == nil {
		t.Error("another token of the family opened the seal")
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := parent.Open(sealed); err == nil {
		t.Error("a changed seal opened")
	}
	for name, s := range map[string]string{
		"empty": "", "short": child.String()[1:], "long": child.String() + "A", "not base64": strings.Repeat("!", 64),
	} {
		if _, ok := identity.ParseRefreshToken(s); ok {
			t.Errorf("%s: parsed", name)
		}
	}
}

func TestPartnerCode(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		code := identity.NewPartnerCode()
		if got, ok := identity.NormalizePartnerCode(code); !ok || got != code || len(code) != identity.PartnerCodeLength {
			t.Fatalf("code %q is not canonical", code)
		}
		seen[code] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d different codes of 1000", len(seen))
	}
	tests := map[string]struct {
		typed, want string
		ok          bool
	}{
		"canonical":        {"0123456789", "0123456789", true},
		"lower case":       {"abcdefghjk", "ABCDEFGHJK", true},
		"grouped":          {" mnp-qrs TVWX ", "MNPQRSTVWX", true},
		"letters for 0, 1": {"oOiIlL0011", "0011110011", true},
		"too short":        {"ABCDEFGHJ", "", false},
		"too long":         {"ABCDEFGHJKM", "", false},
		"U is no letter":   {"UBCDEFGHJK", "", false},
		"empty":            {"", "", false},
		"not ASCII":        {"ABCDEFGHJÉ", "", false},
		"dotless i":        {"ABCDEFGHJı", "", false},
		"not UTF-8":        {"ABCDEFGHJ\xff", "", false},
		"hyphens":          {"A" + strings.Repeat("-", 70) + "BCDEFGHJK", "", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := identity.NormalizePartnerCode(tc.typed)
			if ok != tc.ok || (ok && got != tc.want) {
				t.Errorf("NormalizePartnerCode(%q) = %q, %t, want %q, %t", tc.typed, got, ok, tc.want, tc.ok)
			}
		})
	}
}
