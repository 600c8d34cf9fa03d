package accounts_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
)

func TestConfirmOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	good, wrong := goodPassword, "wrong horse"
	confirm := func(session uuid.UUID, password *string) error {
		return w.ConfirmOwner(t.Context(), accounts.Confirmation{UserID: ada.User.ID, SessionID: session, Password: password})
	}
	w.pass(5*time.Minute - time.Microsecond)
	if err := confirm(ada.SessionID, nil); err != nil {
		t.Errorf("a fresh login: %v", err)
	}
	wantCode(t, "another's session", confirm(eve.SessionID, nil), fault.Forbidden, "forbidden")
	// A wrong password is wrong, however fresh the login.
	wantCode(t, "a wrong password", confirm(ada.SessionID, &wrong), fault.Invalid, "invalid_request")
	w.pass(time.Microsecond)
	wantCode(t, "an older login", confirm(ada.SessionID, nil), fault.Forbidden, "forbidden")
	w.refresh(t, ada.RefreshToken)
	wantCode(t, "an older login, refreshed", confirm(ada.SessionID, nil), fault.Forbidden, "forbidden")
	if err := confirm(ada.SessionID, &good); err != nil {
		t.Errorf("the password: %v", err)
	}
	w.exec(t, `DELETE FROM credentials WHERE user_id = $1`, ada.User.ID)
	wantCode(t, "no password to compare", confirm(ada.SessionID, &good), fault.Invalid, "invalid_request")
}

func TestRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.register(t, "ada@example.test")
	got, err := w.RecordIn(t.Context(), w.pool, ada.User.ID)
	if err != nil || got.Email != "ada@example.test" || got.BirthDate != nil || !got.CreatedAt.Equal(w.clock()) {
		t.Errorf("got %+v, %v", got, err)
	}
	w.exec(t, `DELETE FROM credentials WHERE user_id = $1`, ada.User.ID)
	if got, err := w.RecordIn(t.Context(), w.pool, ada.User.ID); err != nil || got.Email != "" {
		t.Errorf("without a password: got %+v, %v", got, err)
	}
	_, err = w.RecordIn(t.Context(), w.pool, uuid.New())
	wantCode(t, "nobody", err, fault.NotFound, "user_not_found")
}
