package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bondmate/backend/pkg/contract"
)

// roundTrip holds a decoder to what is asked of all of them: what it refuses it calls
// malformed without repeating it, what it takes encodes, and decodes to the same again.
func roundTrip[T any](t *testing.T, rec contract.Record, decode func(contract.Record) (T, error), encode func(T) (contract.Record, error)) {
	t.Helper()
	got, err := decode(rec)
	if err != nil {
		if !errors.Is(err, contract.ErrMalformed) && !errors.Is(err, contract.ErrUnknown) {
			t.Fatalf("error of another kind: %v", err)
		}
		if len(err.Error()) > 200 {
			t.Fatalf("an error of %d bytes repeats what it was given: %v", len(err.Error()), err)
		}
		return
	}
	again, err := encode(got)
	if err != nil {
		t.Fatalf("decoded %+v, which does not encode: %v", got, err)
	}
	second, err := decode(again)
	if err != nil || !reflect.DeepEqual(second, got) {
		t.Fatalf("decoded %+v, then %+v, %v", got, second, err)
	}
}

func seed(f *testing.F, prefix string) {
	for name, rec := range sample(f) {
		if strings.HasPrefix(name, prefix) {
			f.Add(rec.Key, rec.Value, rec.Header("ce_id"), rec.Header("ce_seq"))
			f.Add(rec.Key, bytes.ReplaceAll(rec.Value, []byte(`":"`), []byte(`":["`)), "x", "-1")
			f.Add(rec.Key, append([]byte(strings.Repeat("my own words ", 30)), rec.Value...), rec.Header("ce_id"), "")
		}
	}
}

// stated is a record of a compacted topic; without value it is a tombstone.
func stated(key, value []byte, id, seq string) contract.Record {
	rec := contract.Record{Key: key, Value: value, Headers: []contract.Header{
		{Key: "ce_id", Value: []byte(id)}, {Key: "ce_seq", Value: []byte(seq)}, {Key: "ce_time", Value: []byte("2026-03-01T12:00:00Z")}, {Key: "ce_epoch", Value: []byte("e")},
	}}
	if len(value) == 0 {
		rec.Value = nil
	}
	return rec
}

func FuzzDecodeCouple(f *testing.F) {
	seed(f, "couple")
	f.Fuzz(func(t *testing.T, key, value []byte, id, seq string) {
		if len(value) == 0 && id == "" {
			return // a tombstone of somebody else's, which says nothing that could be encoded
		}
		roundTrip(t, stated(key, value, id, seq), contract.DecodeCouple,
			func(c contract.Couple) (contract.Record, error) { return contract.EncodeCouple("c", 0, c) })
	})
}

func FuzzDecodeUser(f *testing.F) {
	seed(f, "user")
	f.Fuzz(func(t *testing.T, key, value []byte, id, seq string) {
		if len(value) == 0 && id == "" {
			return
		}
		roundTrip(t, stated(key, value, id, seq), contract.DecodeUser,
			func(u contract.User) (contract.Record, error) { return contract.EncodeUser("u", 12, u) })
	})
}

func FuzzDecodePushOutcome(f *testing.F) {
	seed(f, "push")
	f.Fuzz(func(t *testing.T, key, value []byte, id, _ string) {
		rec := contract.Record{Key: key, Value: value, Headers: []contract.Header{{Key: "ce_id", Value: []byte(id)}}}
		roundTrip(t, rec, contract.DecodePushOutcome,
			func(o contract.PushOutcome) (contract.Record, error) { return contract.EncodePushOutcome("p", 12, o) })
	})
}

func FuzzDecodeDeadLetter(f *testing.F) {
	seed(f, "dead")
	f.Fuzz(func(t *testing.T, key, value []byte, _, _ string) {
		rec := contract.Record{Key: key, Value: value, Headers: []contract.Header{{Key: "ce_source", Value: []byte(contract.ByNotifier)}}}
		roundTrip(t, rec, contract.DecodeDeadLetter,
			func(d contract.DeadLetter) (contract.Record, error) { return contract.EncodeDeadLetter("d", 0, d) })
	})
}

// The CloudEvents headers are a stranger's as much as the data: what they say is either
// what the data says, or the record is refused; the structured form is one line of JSON;
// a mark of a replay reads back as it is written.
func FuzzCloudEventsHeaders(f *testing.F) {
	for _, rec := range sample(f) {
		f.Add(rec.Key, rec.Value, rec.Header("ce_id"), rec.Header("ce_type"), rec.Header("traceparent"), "3/17")
		f.Add(rec.Key, rec.Value, "5f0c7a52-6d3b-4c56-9a53-3f1f5b4f3a10", rec.Header("ce_type"), "", "3/-1")
		f.Add(rec.Key, rec.Value, rec.Header("ce_id"), "request.hug", "", "/")
	}
	f.Add([]byte("k"), []byte("{}"), "\xff", "\n", "00-x", "99999999999/99999999999999999999")
	f.Fuzz(func(t *testing.T, key, value []byte, id, kind, trace, replay string) {
		rec := contract.Record{Key: key, Value: value, Headers: []contract.Header{
			{Key: "ce_id", Value: []byte(id)}, {Key: "ce_type", Value: []byte(kind)}, {Key: "traceparent", Value: []byte(trace)},
			{Key: contract.ReplayOf, Value: []byte(replay)},
		}}
		if cmd, env, err := contract.DecodeCommand(rec); err == nil &&
			(id != "" && id != cmd.ID.String() || kind != "" && kind != env.Type || string(key) != cmd.Pair.String()) {
			t.Fatalf("a command %s of type %s under headers %q, %q and key %q", cmd.ID, env.Type, id, kind, key)
		}
		if ev, err := contract.DecodeEvent(rec); err == nil &&
			(id != "" && id != ev.EventID.String() || kind != "" && kind != ev.Type || string(key) != ev.Pair) {
			t.Fatalf("an event %s of type %s under headers %q, %q and key %q", ev.EventID, ev.Type, id, kind, key)
		}
		if line, err := contract.Structured(rec); err == nil && (!json.Valid(line) || strings.ContainsAny(string(line), "\n\r") || !utf8.Valid(line)) {
			t.Fatalf("not one line of JSON: %q", line)
		}
		partition, offset, ok := contract.ReplayedFrom(rec)
		if ok && (partition < 0 || offset < 0) {
			t.Fatalf("replayed from %d/%d", partition, offset)
		}
		if p, o, again := contract.ReplayedFrom(contract.Record{Headers: []contract.Header{contract.ReplayHeader(partition, offset)}}); !again || p != partition || o != offset {
			t.Fatalf("%d/%d reads back as %d/%d", partition, offset, p, o)
		}
	})
}
