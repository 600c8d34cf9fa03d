package realtime

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestPopTakesWhatFitsInOneWrite names the frames of a queue by a letter each and shows which
// go together: texts and events do, what gorilla has to write does not.
func TestPopTakesWhatFitsInOneWrite(t *testing.T) {
	t.Parallel()
	now := time.Now()
	large := bytes.Repeat([]byte("x"), togetherBytes/2)
	frames := map[byte]frame{
		't': {kind: kindText}, 'e': {kind: kindEvent, confirmed: now}, 'E': {kind: kindEvent, confirmed: now, body: large},
		'p': {kind: kindPing}, 'o': {kind: kindPong}, 'c': {kind: kindClose}, 'l': {kind: kindEvent, confirmed: now, last: true},
	}
	tests := map[string][]string{
		"":      nil,
		"e":     {"e"},
		"etee":  {"etee"},
		"eepee": {"ee", "p", "ee"},
		"poc":   {"p", "o", "c"},
		"etc":   {"et", "c"},
		"ele":   {"el", "e"}, // the socket closes in between
		"eEEe":  {"eE", "Ee"},
	}
	for queue, want := range tests {
		t.Run(queue, func(t *testing.T) {
			t.Parallel()
			s := &socket{g: &Gateway{cfg: Config{Clock: func() time.Time { return now }}.withDefaults()}, state: stateOpen, writing: true}
			for _, c := range []byte(queue) {
				f := frames[c]
				s.queue = append(s.queue, f)
				s.queued += f.size()
			}
			var got []string
			for rest := queue; ; {
				n := len(s.pop())
				if n == 0 {
					break
				}
				got = append(got, rest[:n])
				rest = rest[n:]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
			if s.queued != 0 || s.writing {
				t.Errorf("%d bytes are left, writing %t", s.queued, s.writing)
			}
		})
	}
}

// What has waited too long is not taken along with what has not.
func TestPopLeavesWhatIsTooOld(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cfg := Config{Clock: func() time.Time { return now }}.withDefaults()
	s := &socket{g: &Gateway{cfg: cfg}, state: stateOpen, writing: true}
	s.queue = []frame{
		{kind: kindEvent, seq: 1, confirmed: now},
		{kind: kindEvent, seq: 2, confirmed: now.Add(-cfg.ConfirmedFor - 1)},
	}
	if batch := s.pop(); len(batch) != 1 || batch[0].seq != 1 || s.sent != 1 {
		t.Errorf("took %d frames, sent %d; want the first alone", len(batch), s.sent)
	}
}
