package partner_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"

	"github.com/bondmate/backend/pkg/partner"
)

func TestSanitizeText(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ in, text, lines string }{
		"plain":                 {"be mine", "be mine", "be mine"},
		"composed":              {"Gru\u0308ße", "Grüße", "Grüße"},
		"control characters":    {"a\x00b\x07c\x1b[31m\x7f\u009f", "abc[31m", "abc[31m"},
		"bidi override":         {"evil\u202etxt\u202c\u2066x\u2069", "eviltxtx", "eviltxtx"},
		"bidi marks stay":       {"a\u200f\u200eb\u061cc", "a\u200f\u200eb\u061cc", "a\u200f\u200eb\u061cc"},
		"joined emoji stay":     {"👩‍❤️‍👨", "👩‍❤️‍👨", "👩‍❤️‍👨"},
		"line breaks":           {"a\r\nb\rc\nd\u2028e", "a b c d e", "a\nb\nc\nd\ne"},
		"tabs":                  {"a\tb", "a b", "a b"},
		"space around":          {" \n a \t", "a", "a"},
		"only what is removed":  {"\x00\u202e\ufeff", "", ""},
		"composed over removed": {"u\u202e\u0308", "ü", "ü"},
		"invalid UTF-8":         {"a\xffb", "a\ufffdb", "a\ufffdb"},
		"NUL for Postgres":      {"\x00", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := partner.SanitizeText(tt.in, 100); got != tt.text || err != nil {
				t.Errorf("text %q, %v, want %q", got, err, tt.text)
			}
			if got, err := partner.SanitizeLines(tt.in, 100); got != tt.lines || err != nil {
				t.Errorf("lines %q, %v, want %q", got, err, tt.lines)
			}
		})
	}
}

func TestSanitizeTextLength(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   string
		want error
	}{
		"at the limit":                  {strings.Repeat("ü", 5), nil},
		"over":                          {strings.Repeat("ü", 6), partner.ErrTextTooLong},
		"over before, within after NFC": {strings.Repeat("u\u0308", 5), nil},
		"over with what is removed":     {"12345\x00  ", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := partner.SanitizeText(tt.in, 5); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestSanitizeTextProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		runes := rapid.SliceOf(rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune("a u\u0308\u202e\u2066\x00\r\n\t\u00a0\ufeff\u0301")))).Draw(t, "runes")
		for _, sanitize := range []func(string, int) (string, error){partner.SanitizeText, partner.SanitizeLines} {
			once, err := sanitize(string(runes), len(runes)*4)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := sanitize(once, len(runes)*4); err != nil || again != once {
				t.Fatalf("not idempotent: %q then %q, %v", once, again, err)
			}
			if !norm.NFC.IsNormalString(once) || !utf8.ValidString(once) {
				t.Fatalf("%q is not NFC", once)
			}
			if i := strings.IndexFunc(once, func(r rune) bool {
				return unicode.IsControl(r) && r != '\n' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
			}); i >= 0 {
				t.Fatalf("%q holds a forbidden character at %d", once, i)
			}
		}
	})
}
