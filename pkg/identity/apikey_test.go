package identity_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/identity"
)

// published is what docs/operations.md tells secret scanners to look for.
var published = regexp.MustCompile(`^bmk_[0-9a-f]{32}_[0-9a-f]{72}$`)

func TestAPIKeyReadsAsItWasMade(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	key, hash := identity.NewAPIKey(id)
	if !published.MatchString(key) {
		t.Errorf("%d characters: a scanner would not find it", len(key))
	}
	gotID, gotHash, ok := identity.ParseAPIKey(key)
	if !ok || gotID != id || !bytes.Equal(gotHash, hash) || len(hash) != 32 {
		t.Errorf("got %s %x %t", gotID, gotHash, ok)
	}
	other, otherHash := identity.NewAPIKey(id)
	if other == key || bytes.Equal(otherHash, hash) {
		t.Error("two keys of an id are the same")
	}
}

// summed is a text with its right checksum.
func summed(text string) string { return fmt.Sprintf("%s%08x", text, crc32.ChecksumIEEE([]byte(text))) }

func TestParseAPIKeyRefuses(t *testing.T) {
	t.Parallel()
	key, _ := identity.NewAPIKey(uuid.New())
	body := key[:len(key)-8]
	digit := "0"
	if key[50] == '0' {
		digit = "1"
	}
	for name, text := range map[string]string{
		"empty":                     "",
		"a word":                    "secret",
		"cut off":                   key[:len(key)-1],
		"something behind it":       key + "0",
		"a space before it":         " " + key,
		"one digit mistyped":        key[:50] + digit + key[51:],
		"another prefix":            summed("bmx_" + body[4:]),
		"upper case, well summed":   summed(strings.ToUpper(body[:40]) + body[40:]),
		"an id that is no number":   summed(body[:4] + strings.Repeat("z", 32) + body[36:]),
		"a secret that is no digit": summed(body[:37] + strings.Repeat("-", 64)),
		"no separator":              summed(body[:36] + "0" + body[37:]),
		"a megabyte":                strings.Repeat(key, 10_000),
	} {
		if id, hash, ok := identity.ParseAPIKey(text); ok || id != uuid.Nil || hash != nil {
			t.Errorf("%s: taken for a key of %s", name, id)
		}
	}
	if _, _, ok := identity.ParseAPIKey(summed(body)); !ok {
		t.Error("the checksum of these tests is not the keys'")
	}
}

func FuzzParseAPIKey(f *testing.F) {
	key, _ := identity.NewAPIKey(uuid.New())
	f.Add(key)
	f.Add(summed(strings.ToUpper(key[:len(key)-8])))
	f.Add("bmk_")
	f.Fuzz(func(t *testing.T, text string) {
		id, hash, ok := identity.ParseAPIKey(text)
		if !ok {
			return
		}
		if !published.MatchString(text) || !strings.Contains(text, strings.ReplaceAll(id.String(), "-", "")) || len(hash) != 32 {
			t.Errorf("%q is taken for a key of %s", text, id)
		}
	})
}
