package contract_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/contract"
)

func TestPresence(t *testing.T) {
	t.Parallel()
	want := contract.Presence{UserID: id(1), Instance: id(80), Online: true, Time: time.Date(2026, 3, 1, 12, 30, 45, 6000, time.UTC)}
	good, err := contract.EncodePresence("test.presence.v1", 12, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := contract.DecodePresence(good)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if key := want.UserID.String(); string(good.Key) != key || good.Partition != contract.PartitionOf([]byte(key), 12) || good.Header("ce_subject") != key {
		t.Errorf("key %s, partition %d, subject %s: want the user's", good.Key, good.Partition, good.Header("ce_subject"))
	}
	for name, test := range map[string]struct {
		from, to string
		want     error
	}{
		"not JSON":           {`{"eventId"`, `{eventId`, contract.ErrMalformed},
		"another type":       {`"type":"presence"`, `"type":"absence"`, contract.ErrUnknown},
		"no type":            {`"type":"presence",`, ``, contract.ErrMalformed},
		"no version":         {`"version":1`, `"version":0`, contract.ErrMalformed},
		"no instance":        {`"instance":"` + id(80).String(), `"instance":"`, contract.ErrMalformed},
		"another instance":   {`"instance":"` + id(80).String(), `"instance":"` + id(81).String(), contract.ErrMalformed},
		"the opposite":       {`"online":true`, `"online":false`, contract.ErrMalformed},
		"another user's key": {`"userId":"` + id(1).String(), `"userId":"` + id(2).String(), contract.ErrMalformed},
		"no time":            {`"time":"2026`, `"time":"x2026`, contract.ErrMalformed},
	} {
		if _, err := contract.DecodePresence(edited(t, good, test.from, test.to)); !errors.Is(err, test.want) {
			t.Errorf("%s: error %v, want %v", name, err, test.want)
		}
	}
	for name, p := range map[string]contract.Presence{"nobody's": {Instance: id(80)}, "of nowhere": {UserID: id(1)}} {
		if _, err := contract.EncodePresence("test.presence.v1", 12, p); err == nil {
			t.Errorf("%s: it was encoded", name)
		}
	}
}
