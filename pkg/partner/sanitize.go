package partner

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// ErrTextTooLong says that a free text has more characters than allowed.
var ErrTextTooLong = errors.New("text too long")

// SanitizeText returns a free text of one line as the system keeps it: in Unicode's form
// NFC, with line breaks and tabs as spaces, without the space around it, and without
// control characters and the characters that turn the direction of writing, with which a
// text can show itself as another. It is idempotent. Longer than maxRunes code points
// after that is ErrTextTooLong.
func SanitizeText(s string, maxRunes int) (string, error) {
	return sanitize(s, maxRunes, ' ')
}

// SanitizeLines is SanitizeText for a text that may have several lines: line breaks of all
// kinds become "\n" and stay.
func SanitizeLines(s string, maxRunes int) (string, error) {
	return sanitize(s, maxRunes, '\n')
}

func sanitize(s string, maxRunes int, lineBreak rune) (string, error) {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\v' || r == '\f' || r == '\u0085' || r == '\u2028' || r == '\u2029':
			return lineBreak
		case r == '\t':
			return ' '
		case unicode.IsControl(r), r == '\ufeff', turnsDirection(r):
			return -1
		}
		return r
	}, s)
	// Last, because what is taken out above may have stood between two that compose.
	s = strings.TrimSpace(norm.NFC.String(s))
	if utf8.RuneCountInString(s) > maxRunes {
		return "", ErrTextTooLong
	}
	return s, nil
}

// turnsDirection reports the embeddings, overrides and isolates of the bidirectional
// algorithm. The marks (U+200E, U+200F, U+061C) stay: they turn nothing, and right-to-left
// texts need them; so do the joiners of emoji.
func turnsDirection(r rune) bool {
	return (r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069')
}
