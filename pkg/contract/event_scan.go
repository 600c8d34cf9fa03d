package contract

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// scanEvent reads an event in the one form in which EncodeEvent writes it: these fields in
// this order, no spaces between them, no escapes in strings. Every process that follows the
// topic decodes every event, and encoding/json takes five times as long. It reports false
// for any other form, which is json's to judge: what it accepts, json reads as the same.
func scanEvent(value []byte) (data eventJSON, ok bool) {
	s := scanner{text: string(value)}
	data = eventJSON{
		EventID: s.plain(`{"eventId":"`), Type: s.plain(`,"type":"`), Version: int(s.number(`,"version":`)),
		CommandID: s.plain(`,"commandId":"`), Pair: s.plain(`,"pair":"`), Epoch: s.plain(`,"epoch":"`), Seq: s.number(`,"seq":`),
		AcceptedAt: s.plain(`,"acceptedAt":"`), AppliedAt: s.plain(`,"appliedAt":"`),
	}
	s.skip(`,"recipients":[`)
	for open := `{"userId":"`; !s.failed && !strings.HasPrefix(s.text, `]`); open = `,{"userId":"` {
		data.Recipients = append(data.Recipients, recipientJSON{UserID: s.plain(open), InboxSeq: s.number(`,"inboxSeq":`)})
		s.skip(`}`)
	}
	s.skip(`],"data":`)
	if s.failed || !strings.HasSuffix(s.text, "}") {
		return eventJSON{}, false
	}
	end := len(value) - 1
	data.Data = bytes.Clone(value[end+1-len(s.text) : end])
	if len(data.Data) == 0 || data.Data[0] != '{' || data.Data[len(data.Data)-1] != '}' || !json.Valid(data.Data) {
		return eventJSON{}, false
	}
	return data, true
}

// scanner eats a text from its front. Once something is not as expected it only fails.
type scanner struct {
	text   string
	failed bool
}

func (s *scanner) skip(what string) {
	rest, ok := strings.CutPrefix(s.text, what)
	s.text, s.failed = rest, s.failed || !ok
}

// plain reads a string of plain ASCII and its closing quote, behind what opens it.
func (s *scanner) plain(open string) string {
	s.skip(open)
	for i := 0; i < len(s.text) && !s.failed; i++ {
		switch c := s.text[i]; {
		case c == '"':
			out := s.text[:i]
			s.text = s.text[i+1:]
			return out
		case c < ' ' || c > '~' || c == '\\':
			s.failed = true
		}
	}
	s.failed = true
	return ""
}

// number reads a number without a sign, a fraction or a leading zero.
func (s *scanner) number(before string) int64 {
	s.skip(before)
	i := 0
	for i < len(s.text) && '0' <= s.text[i] && s.text[i] <= '9' {
		i++
	}
	n, err := strconv.ParseInt(s.text[:i], 10, 64)
	s.failed = s.failed || err != nil || i > 1 && s.text[0] == '0'
	s.text = s.text[i:]
	return n
}
