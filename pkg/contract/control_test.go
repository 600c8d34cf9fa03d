package contract_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
)

func revoked() contract.SessionRevoked {
	return contract.SessionRevoked{UserID: id(1), SessionID: id(70), Reason: contract.RevokedByLogout, Time: time.Date(2026, 3, 1, 12, 30, 45, 6000, time.UTC)}
}

func TestSessionRevokedRoundTrip(t *testing.T) {
	t.Parallel()
	want := revoked()
	rec, err := contract.EncodeSessionRevoked("test.control.v1", 12, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := contract.DecodeSessionRevoked(rec)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if key := want.UserID.String(); string(rec.Key) != key || rec.Partition != contract.PartitionOf([]byte(key), 12) || rec.Header("ce_subject") != key {
		t.Errorf("key %s, partition %d, subject %s: want the user's", rec.Key, rec.Partition, rec.Header("ce_subject"))
	}
	other := want
	other.SessionID = id(71)
	if want.ID() == other.ID() {
		t.Error("two sessions' ends have one id")
	}
	// A word of a newer program is a reason like any other.
	want.Reason = "some_new_reason"
	if rec, err = contract.EncodeSessionRevoked("test.control.v1", 12, want); err != nil {
		t.Fatal(err)
	}
	if got, err = contract.DecodeSessionRevoked(rec); err != nil || got.Reason != want.Reason {
		t.Errorf("record of a new reason: %+v, %v", got, err)
	}
}

func TestSessionRevokedRefuses(t *testing.T) {
	t.Parallel()
	good, err := contract.EncodeSessionRevoked("test.control.v1", 12, revoked())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		from, to string
		want     error
	}{
		"not JSON":           {`{"eventId"`, `{eventId`, contract.ErrMalformed},
		"no type":            {`"type":"session.revoked",`, ``, contract.ErrMalformed},
		"another type":       {`"session.revoked"`, `"session.started"`, contract.ErrUnknown},
		"no version":         {`"version":1`, `"version":0`, contract.ErrMalformed},
		"no session":         {`"sessionId":"` + id(70).String(), `"sessionId":"`, contract.ErrMalformed},
		"another session":    {`"sessionId":"` + id(70).String(), `"sessionId":"` + id(71).String(), contract.ErrMalformed},
		"another user's key": {`"userId":"` + id(1).String(), `"userId":"` + id(2).String(), contract.ErrMalformed},
		"nobody's":           {`"userId":"` + id(1).String(), `"userId":"` + uuid.Nil.String(), contract.ErrMalformed},
		"no reason":          {`"logout"`, `""`, contract.ErrMalformed},
		"no time":            {`"time":"2026`, `"time":"x2026`, contract.ErrMalformed},
	} {
		if _, err := contract.DecodeSessionRevoked(edited(t, good, test.from, test.to)); !errors.Is(err, test.want) {
			t.Errorf("%s: error %v, want %v", name, err, test.want)
		}
	}
	for name, edit := range map[string]func(*contract.SessionRevoked){
		"no user":    func(r *contract.SessionRevoked) { r.UserID = uuid.Nil },
		"no session": func(r *contract.SessionRevoked) { r.SessionID = uuid.Nil },
		"no reason":  func(r *contract.SessionRevoked) { r.Reason = "" },
	} {
		bad := revoked()
		edit(&bad)
		if _, err := contract.EncodeSessionRevoked("test.control.v1", 12, bad); err == nil {
			t.Errorf("%s: it was encoded", name)
		}
	}
}
