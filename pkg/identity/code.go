package identity

import (
	"crypto/rand"
	"strings"
)

const (
	// crockford is Douglas Crockford's base32 alphabet: no I, L, O, U.
	crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	// PartnerCodeLength is 50 bits: too many to try, few enough to read aloud.
	PartnerCodeLength = 10
	// maxTypedCode bounds what a person may type around ten characters.
	maxTypedCode = 64
)

// NewPartnerCode returns a random partner code in its canonical form.
func NewPartnerCode() string {
	code := make([]byte, PartnerCodeLength)
	_, _ = rand.Read(code) // never fails: the runtime ends the process instead
	for i, b := range code {
		code[i] = crockford[b&31] // 256 is a multiple of 32: no character is likelier
	}
	return string(code)
}

// NormalizePartnerCode returns the canonical form of a code as a person types it: any
// case, O for 0, I or L for 1, with spaces and hyphens. It reports false for what can
// be no code.
func NormalizePartnerCode(typed string) (string, bool) {
	if len(typed) > maxTypedCode {
		return "", false
	}
	var code strings.Builder
	for _, r := range typed {
		if 'a' <= r && r <= 'z' { // not ToUpper, which turns ı into I and ſ into S
			r -= 'a' - 'A'
		}
		switch r {
		case '-', ' ':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if !strings.ContainsRune(crockford, r) {
			return "", false
		}
		code.WriteRune(r)
	}
	return code.String(), code.Len() == PartnerCodeLength
}
