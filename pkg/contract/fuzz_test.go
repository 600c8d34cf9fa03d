package contract_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/bondmate/backend/pkg/contract"
)

// Whatever the bytes, decoding ends in a record that encodes to the same again, or in one
// of the two errors; it never panics.

func FuzzDecodeCommand(f *testing.F) {
	for _, rec := range sample(f) {
		f.Add(rec.Key, rec.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		cmd, env, err := contract.DecodeCommand(contract.Record{Key: key, Value: value})
		if errors.Is(err, contract.ErrUnknown) {
			if env.Pair.String() != string(key) || env.Type == "" || env.Version < 1 {
				t.Fatalf("unknown, but the envelope is %+v", env)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, contract.ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		rec, err := contract.EncodeCommand(topics(), 12, cmd, "")
		if err != nil {
			t.Fatalf("decoded %+v, which does not encode: %v", cmd, err)
		}
		if again, _, err := contract.DecodeCommand(rec); err != nil || !reflect.DeepEqual(again, cmd) {
			t.Fatalf("decoded %+v, then %+v, %v", cmd, again, err)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	for _, rec := range sample(f) {
		f.Add(rec.Key, rec.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		ev, err := contract.DecodeEvent(contract.Record{Key: key, Value: value})
		if errors.Is(err, contract.ErrUnknown) {
			return
		}
		if err != nil {
			if !errors.Is(err, contract.ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		rec, err := contract.EncodeEvent("e", 0, ev)
		if err != nil {
			t.Fatalf("decoded %+v, which does not encode: %v", ev, err)
		}
		if _, err := contract.DecodeEvent(rec); err != nil {
			t.Fatalf("encoded %s, which does not decode: %v", rec.Value, err)
		}
	})
}

func FuzzDecodePresence(f *testing.F) {
	for _, rec := range sample(f) {
		f.Add(rec.Key, rec.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		p, err := contract.DecodePresence(contract.Record{Key: key, Value: value})
		if err != nil {
			if !errors.Is(err, contract.ErrMalformed) && !errors.Is(err, contract.ErrUnknown) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		rec, err := contract.EncodePresence("p", 12, p)
		if err != nil {
			t.Fatalf("decoded %+v, which does not encode: %v", p, err)
		}
		if again, err := contract.DecodePresence(rec); err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("decoded %+v, then %+v, %v", p, again, err)
		}
	})
}

func FuzzDecodeSessionRevoked(f *testing.F) {
	for _, rec := range sample(f) {
		f.Add(rec.Key, rec.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := contract.DecodeSessionRevoked(contract.Record{Key: key, Value: value})
		if err != nil {
			if !errors.Is(err, contract.ErrMalformed) && !errors.Is(err, contract.ErrUnknown) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		rec, err := contract.EncodeSessionRevoked("c", 12, r)
		if err != nil {
			t.Fatalf("decoded %+v, which does not encode: %v", r, err)
		}
		if again, err := contract.DecodeSessionRevoked(rec); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("decoded %+v, then %+v, %v", r, again, err)
		}
	})
}
