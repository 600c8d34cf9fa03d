package accounts

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// An address has one form: normalised again it is the same, in whatever case and with
// whatever space around it was typed; and it can be written into a mail's header as it is.
func FuzzNormaliseEmail(f *testing.F) {
	for _, s := range []string{
		"Ana@Example.org", " ana@example.org\t", "ana@example.org\r\nBcc: eve@example.org", `"ana"@example.org`, "Ana <ana@example.org>", "ana@bücher.example",
		"İ@example.org", "a\u0301na@example.org", "ana\u200b@example.org", "@", "a@b", "ana@example.org(x)", "ſ@example.org", "K@example.org", "a@[127.0.0.1]",
		strings.Repeat("a", 65) + "@example.org", "ana@" + strings.Repeat("b", 260), "a,b@example.org", "\x00@example.org",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		email, ok := normaliseEmail(typed)
		if !ok {
			return
		}
		if again, ok := normaliseEmail(email); !ok || again != email {
			t.Fatalf("%q is %q, and that is %q", typed, email, again)
		}
		if spaced, ok := normaliseEmail("\t " + email + " \n"); !ok || spaced != email {
			t.Fatalf("%q with space around it is %q", email, spaced)
		}
		if len(email) > maxEmailBytes || !utf8.ValidString(email) || strings.IndexByte(email, '@') < 1 {
			t.Fatalf("%q is taken as %q", typed, email)
		}
		if strings.ContainsFunc(email, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }) {
			t.Fatalf("%q hides something", email)
		}
		if strings.ContainsAny(email, "<>\"") && strings.ContainsAny(email, ",;") {
			t.Fatalf("%q is more than an address", email)
		}
	})
}
