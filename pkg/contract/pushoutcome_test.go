package contract_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
)

// ended is the outcome of a push that the provider took at once.
func ended() contract.PushOutcome {
	at := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	return contract.PushOutcome{
		UserID: id(1), DeliveryID: id(90), SourceEventID: id(91), SourceType: "request.received", Seq: 7, Epoch: "5f3a9c01d2e4",
		Category: "requests", Outcome: "delivered", Attempts: 1,
		AppliedAt: at, DueAt: at.Add(1500 * time.Millisecond), SettledAt: at.Add(1530450 * time.Microsecond),
	}
}

// takenBack is the second outcome of the same push.
func takenBack() contract.PushOutcome {
	o := ended()
	o.Outcome, o.Attempts, o.Replaced, o.SettledAt = "withdrawn", 2, true, o.SettledAt.Add(time.Hour)
	return o
}

func TestPushOutcomeRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range []contract.PushOutcome{ended(), takenBack()} {
		rec, err := contract.EncodePushOutcome("test.pushes.v1", 12, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := contract.DecodePushOutcome(rec)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		if key := want.UserID.String(); string(rec.Key) != key || rec.Partition != contract.PartitionOf([]byte(key), 12) || rec.Header("ce_subject") != key {
			t.Errorf("key %s, partition %d, subject %s: want the user's", rec.Key, rec.Partition, rec.Header("ce_subject"))
		}
		if rec.Header("ce_source") != "/bondmate/notifier" || rec.Header("ce_id") != want.ID().String() {
			t.Errorf("source %s, id %s", rec.Header("ce_source"), rec.Header("ce_id"))
		}
	}
}

// What is told twice has one id, also when it took another attempt; another outcome of the
// delivery is no repeat.
func TestPushOutcomeID(t *testing.T) {
	t.Parallel()
	again := ended()
	again.Attempts, again.SettledAt = 2, again.SettledAt.Add(time.Minute)
	if again.ID() != ended().ID() {
		t.Error("the same outcome has two ids")
	}
	if takenBack().ID() == ended().ID() {
		t.Error("two outcomes of one delivery have one id: who drops repeats misses the second")
	}
	other := ended()
	other.DeliveryID = id(92)
	if other.ID() == ended().ID() {
		t.Error("two deliveries have one id")
	}
}

func TestPushOutcomeRefuses(t *testing.T) {
	t.Parallel()
	good, err := contract.EncodePushOutcome("test.pushes.v1", 12, ended())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		from, to string
		want     error
	}{
		"not JSON":           {`{"eventId"`, `{eventId`, contract.ErrMalformed},
		"no type":            {`"type":"push.outcome",`, ``, contract.ErrMalformed},
		"another type":       {`"push.outcome"`, `"push.begun"`, contract.ErrUnknown},
		"no version":         {`"version":1`, `"version":0`, contract.ErrMalformed},
		"another outcome":    {`"outcome":"delivered"`, `"outcome":"expired"`, contract.ErrMalformed},
		"no outcome":         {`"outcome":"delivered"`, `"outcome":"read"`, contract.ErrMalformed},
		"another delivery":   {`"deliveryId":"` + id(90).String(), `"deliveryId":"` + id(92).String(), contract.ErrMalformed},
		"no event":           {`"sourceEventId":"` + id(91).String(), `"sourceEventId":"`, contract.ErrMalformed},
		"another user's key": {`"userId":"` + id(1).String(), `"userId":"` + id(2).String(), contract.ErrMalformed},
		"no place":           {`"seq":7`, `"seq":0`, contract.ErrMalformed},
		"attempts of a debt": {`"attempts":1`, `"attempts":-1`, contract.ErrMalformed},
		"no time":            {`"settledAt":"2026`, `"settledAt":"x2026`, contract.ErrMalformed},
	} {
		if _, err := contract.DecodePushOutcome(edited(t, good, test.from, test.to)); !errors.Is(err, test.want) {
			t.Errorf("%s: error %v, want %v", name, err, test.want)
		}
	}
	for name, edit := range map[string]func(*contract.PushOutcome){
		"no user":                  func(o *contract.PushOutcome) { o.UserID = uuid.Nil },
		"no delivery":              func(o *contract.PushOutcome) { o.DeliveryID = uuid.Nil },
		"no event":                 func(o *contract.PushOutcome) { o.SourceEventID = uuid.Nil },
		"no type":                  func(o *contract.PushOutcome) { o.SourceType = "" },
		"no epoch":                 func(o *contract.PushOutcome) { o.Epoch = "" },
		"an outcome of its own":    func(o *contract.PushOutcome) { o.Outcome = "read" },
		"delivered and taken back": func(o *contract.PushOutcome) { o.Replaced = true },
	} {
		bad := ended()
		edit(&bad)
		if _, err := contract.EncodePushOutcome("test.pushes.v1", 12, bad); err == nil {
			t.Errorf("%s: it was encoded", name)
		}
	}
}
