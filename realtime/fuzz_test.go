package realtime

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// A client's frame is a message, or is answered with a code, or closes the socket with a
// reason that fits into a close frame: one of the three. A message is a JSON object and
// reads back as itself.
func FuzzDecodeFrame(f *testing.F) {
	for _, body := range []string{
		`{"op":"hello","ticket":"x","after":3,"epoch":"e","deviceId":"d","visible":true}`, `{"op":"ack","seq":4}`, `{"op":"visible","on":false}`,
		`{"op":"auth","accessToken":"t"}`, `{"op":"ping"}`, `null`, `[]`, `"x"`, `1`, `{`, `{}`, ` {"op":1}`, `{"seq":1e99}`, `{"seq":-1}`, `{"OP":"ping"}`,
		`{"op":"ping","op":"auth"}`, `{"after":9223372036854775808}`, `{"op":"\ud800"}`, "{\"op\":\"\xff\"}", `{"a":{"a":{"a":{}}}}`, "\ufeff{}",
	} {
		f.Add(websocket.TextMessage, []byte(body))
	}
	f.Add(websocket.BinaryMessage, []byte(`{}`))
	f.Fuzz(func(t *testing.T, kind int, body []byte) {
		m, code, violation := decode(kind, body)
		if code != "" && violation != "" || len(violation) > 123 {
			t.Fatalf("answered with %q and closed as %q", code, violation)
		}
		if code != "" || violation != "" {
			if !reflect.DeepEqual(m, message{}) {
				t.Fatalf("refused, and yet %+v", m)
			}
			return
		}
		if kind != websocket.TextMessage || !json.Valid(body) || bytes.TrimSpace(body)[0] != '{' {
			t.Fatalf("%d %q is taken as %+v", kind, body, m)
		}
		if !utf8.ValidString(m.Op) || !utf8.ValidString(m.Ticket) {
			t.Fatalf("%q holds text that is none", body)
		}
		again, code, violation := decode(kind, encode(m))
		if code != "" || violation != "" || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v reads back as %+v, %q, %q", m, again, code, violation)
		}
	})
}
