package contract

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func writtenEvents(tb testing.TB) [][]byte {
	tb.Helper()
	user, other := uuid.New(), uuid.New()
	if user.String() > other.String() {
		user, other = other, user
	}
	ev := Event{
		EventID: uuid.New(), Type: "request.received", CommandID: uuid.New(), Pair: user.String() + ":" + other.String(),
		Epoch: "3f9d0c1a77b2", Seq: 12, AcceptedAt: time.Now(), AppliedAt: time.Now(),
	}
	var values [][]byte
	for _, recipients := range [][]Recipient{nil, {{user, 3}}, {{user, 3}, {other, 12345678901}}} {
		for _, data := range []string{``, `{}`, `{"requestId":"x","n":[1,{"a":"}\\"}],"t":"\u00e9"}`} {
			ev.Recipients, ev.Data = recipients, json.RawMessage(data)
			rec, err := EncodeEvent("t", 0, ev)
			if err != nil {
				tb.Fatal(err)
			}
			values = append(values, rec.Value)
		}
	}
	return values
}

// What this program writes is read without encoding/json, as it was written at any time.
func TestScanEventReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	for _, value := range writtenEvents(t) {
		if _, ok := scanEvent(value); !ok {
			t.Errorf("left to json: %s", value)
		}
	}
}

// FuzzScanEvent: what the scan accepts, json reads as the same.
func FuzzScanEvent(f *testing.F) {
	for _, value := range writtenEvents(f) {
		f.Add(value)
		text := string(value)
		for _, change := range [][2]string{
			{`"seq":12`, `"seq":012`}, {`"seq":12`, `"seq":-12`}, {`"seq":12`, `"seq":99999999999999999999`}, {`"seq":12`, `"seq":1e3`}, {`"seq":12`, `"seq":`},
			{`"version":1`, `"version":"1"`}, {`"type":"`, `"type":"\u0041`}, {`"type":"`, `"type":"é`}, {`"type":"`, "\"type\":\"\xff"}, {`"epoch":"`, `"epoch": "`},
			{`"recipients":[`, `"recipients":[null,`}, {`"recipients":[`, `"recipients":[{},`}, {`"data":{`, `"data":{"a":1},"seq":5,"more":{`}, {`"data":{`, `"data":[{`},
			{`"data":`, `"data": `}, {`"data":{`, `"data":{,`}, {`}}`, `}} `}, {`}}`, `}}}`}, {`}}`, `},"later":1}`}, {`"eventId"`, `"EventID"`},
		} {
			f.Add([]byte(strings.Replace(text, change[0], change[1], 1)))
		}
	}
	files, err := filepath.Glob("testdata/golden/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		got, ok := scanEvent(value)
		if !ok {
			return
		}
		var want eventJSON
		if err := json.Unmarshal(value, &want); err != nil {
			t.Fatalf("json refuses what was read: %v", err)
		}
		if len(want.Recipients) == 0 {
			want.Recipients = nil // [] and nothing are the same
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("read %+v, json reads %+v", got, want)
		}
	})
}
