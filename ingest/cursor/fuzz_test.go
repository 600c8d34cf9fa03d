package cursor_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/cursor"
)

// A place has one text, and a text that is read is a place that Postgres can hold.
func FuzzDecode(f *testing.F) {
	f.Add(cursor.Encode(time.UnixMicro(1_700_000_000_000_000), uuid.MustParse("5f0c7a52-6d3b-4c56-9a53-3f1f5b4f3a10")))
	f.Add(cursor.Encode(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), uuid.Max))
	f.Add(cursor.Encode(time.Unix(0, 0), uuid.Nil) + "\n")
	f.Add("")
	f.Add("________________________________")
	f.Fuzz(func(t *testing.T, text string) {
		at, id, ok := cursor.Decode(text)
		if !ok {
			return
		}
		if again := cursor.Encode(at, id); again != text {
			t.Fatalf("%q is also %q", text, again)
		}
		if at.Year() < 1 || at.Year() > 9999 {
			t.Fatalf("%q is at %v", text, at)
		}
	})
}
