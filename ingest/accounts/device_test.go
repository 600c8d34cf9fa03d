package accounts_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

func hexOf(s string) string { return hex.EncodeToString([]byte(s)) }

func hexOfDecoded(s string) string {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return hexOf(s)
	}
	return hex.EncodeToString(raw)
}

func (w *world) devices(t *testing.T, user uuid.UUID) []accounts.PushDevice {
	t.Helper()
	list, err := w.Devices(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPushAddressMovesWithThePhone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	before := w.device(t, ada, "the-phone")
	w.pass(time.Minute)
	again := w.device(t, ada, "the-phone")
	if again.ID != before.ID || !again.CreatedAt.Equal(before.CreatedAt) || !again.UpdatedAt.Equal(w.clock()) {
		t.Errorf("registered again: %+v, want %+v with a new time", again, before)
	}
	moved := w.device(t, eve, "the-phone")
	if moved.ID == before.ID {
		t.Error("the device kept its id: a delivery to its former owner would reach the new one")
	}
	if got := w.devices(t, ada.User.ID); len(got) != 0 {
		t.Errorf("the former owner still has %+v", got)
	}
	if diff := cmp.Diff([]accounts.PushDevice{moved}, w.devices(t, eve.User.ID)); diff != "" {
		t.Errorf("the new owner's devices (-want +got):\n%s", diff)
	}
	if err := w.Logout(t.Context(), ada.User.ID, ada.SessionID); err != nil {
		t.Fatal(err)
	}
	if got := w.devices(t, eve.User.ID); len(got) != 1 {
		t.Error("the former owner's logout took the device along")
	}
	wantCode(t, "delete another's device", w.DeleteDevice(t.Context(), ada.User.ID, moved.ID), fault.NotFound, "not_found")
	if err := w.DeleteDevice(t.Context(), eve.User.ID, moved.ID); err != nil {
		t.Error(err)
	}
	wantCode(t, "delete it twice", w.DeleteDevice(t.Context(), eve.User.ID, moved.ID), fault.NotFound, "not_found")
}

func TestConcurrentTakeovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := make([]accounts.AuthResult, 6)
	for i := range users {
		users[i] = w.register(t, address(i))
	}
	phones := []string{"phone-a", "phone-b", "phone-c"}
	for _, err := range together(t.Context(), 36, func(ctx context.Context, i int) error {
		u := users[i%len(users)]
		_, err := w.RegisterDevice(ctx, u.User.ID, u.SessionID, accounts.DeviceInput{Kind: "fcm", Token: phones[i%len(phones)], Platform: "ios"})
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if n := w.count(t, `SELECT count(*) FROM devices`); n != len(phones) {
		t.Errorf("%d devices, want %d", n, len(phones))
	}
	if n := w.count(t, `SELECT count(*) FROM devices d JOIN sessions s ON s.id = d.session_id WHERE s.user_id <> d.user_id`); n != 0 {
		t.Errorf("%d devices are bound to another user's session", n)
	}
}

// Registrations and tickets race the session's end: nothing of it stays behind.
func TestNothingIsLeftOfAnEndedSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register(t, "ada@example.test")
	for range 10 {
		res := w.login(t, "ada@example.test")
		for _, err := range together(t.Context(), 9, func(ctx context.Context, i int) error {
			var err error
			switch {
			case i == 4:
				return w.Logout(ctx, res.User.ID, res.SessionID)
			case i%2 == 0:
				_, err = w.RegisterDevice(ctx, res.User.ID, res.SessionID, accounts.DeviceInput{Kind: "fcm", Token: address(i), Platform: "ios"})
			default:
				_, err = w.CreateTicket(ctx, res.User.ID, res.SessionID)
			}
			if fault.CodeOf(err) == "unauthenticated" {
				return nil
			}
			return err
		}) {
			if err != nil {
				t.Error(err)
			}
		}
		if n := w.count(t, `SELECT (SELECT count(*) FROM devices) + (SELECT count(*) FROM realtime_tickets)`); n != 0 {
			t.Fatalf("%d devices and tickets outlive their session", n)
		}
	}
}

func TestDevicesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.MaxDevices = 3 })
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	w.device(t, eve, "eve")
	var want []accounts.PushDevice
	for i := range 5 {
		w.pass(time.Second)
		want = append(want, w.device(t, ada, address(i)))
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want[:3], w.devices(t, ada.User.ID)); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if len(w.devices(t, eve.User.ID)) != 1 {
		t.Error("another user's device went")
	}
}

func TestRegisterDeviceRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	for name, in := range map[string]accounts.DeviceInput{
		"unknown kind": {Kind: "smoke", Token: "x", Platform: "ios"},
		"no token":     {Kind: "fcm", Platform: "ios"},
		"spaces":       {Kind: "fcm", Token: "a b", Platform: "ios"},
		"not ASCII":    {Kind: "fcm", Token: "é", Platform: "ios"},
		"long":         {Kind: "fcm", Token: strings.Repeat("x", 2049), Platform: "ios"},
		"no platform":  {Kind: "fcm", Token: "x"},
		"long version": {Kind: "fcm", Token: "x", Platform: "ios", AppVersion: strings.Repeat("1", 41)},
	} {
		_, err := w.RegisterDevice(t.Context(), ada.User.ID, ada.SessionID, in)
		wantCode(t, name, err, fault.Invalid, "invalid_request")
	}
	good := accounts.DeviceInput{Kind: "fcm", Token: randomASCII(2048), Platform: "ios"}
	_, err := w.RegisterDevice(t.Context(), ada.User.ID, eve.SessionID, good)
	wantCode(t, "another's session", err, fault.Unauthenticated, "unauthenticated")
	if _, err := w.RegisterDevice(t.Context(), ada.User.ID, ada.SessionID, good); err != nil {
		t.Errorf("the longest address: %v", err)
	}
	w.pass(61 * 24 * time.Hour)
	_, err = w.RegisterDevice(t.Context(), ada.User.ID, ada.SessionID, good)
	wantCode(t, "expired session", err, fault.Unauthenticated, "unauthenticated")
}

// randomASCII does not compress, so that a B-tree entry is as large as it can be.
func randomASCII(n int) string {
	var b strings.Builder
	for b.Len() < n {
		secret, _ := identity.NewSecret()
		b.WriteString(secret)
	}
	return b.String()[:n]
}

func TestTicket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.MaxTickets = 3 })
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	first, err := w.CreateTicket(t.Context(), ada.User.ID, ada.SessionID)
	if err != nil {
		t.Fatal(err)
	}
	if got := first.ExpiresAt.Sub(w.clock()); got != time.Minute {
		t.Errorf("a ticket lives %s, want 1m", got)
	}
	// As the gateway takes it: once.
	const take = `DELETE FROM realtime_tickets WHERE hash = $1 AND expires_at > $2 RETURNING user_id, session_id`
	var user, session uuid.UUID
	if err := w.pool.QueryRow(t.Context(), take, identity.HashSecret(first.Ticket), w.clock()).Scan(&user, &session); err != nil || user != ada.User.ID || session != ada.SessionID {
		t.Errorf("took %s, %s, %v, want %s, %s", user, session, err, ada.User.ID, ada.SessionID)
	}
	if err := w.pool.QueryRow(t.Context(), take, identity.HashSecret(first.Ticket), w.clock()).Scan(&user, &session); err == nil {
		t.Error("a ticket was taken twice")
	}

	if _, err := w.CreateTicket(t.Context(), eve.User.ID, eve.SessionID); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 5 {
		w.pass(time.Second)
		ticket, err := w.CreateTicket(t.Context(), ada.User.ID, ada.SessionID)
		if err != nil {
			t.Fatal(err)
		}
		seen[ticket.Ticket] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d different tickets of 5", len(seen))
	}
	if n := w.count(t, `SELECT count(*) FROM realtime_tickets WHERE session_id = $1`, ada.SessionID); n != 3 {
		t.Errorf("the session has %d tickets, want 3", n)
	}
	w.pass(2 * time.Minute)
	if _, err := w.CreateTicket(t.Context(), ada.User.ID, ada.SessionID); err != nil {
		t.Fatal(err)
	}
	if n := w.count(t, `SELECT count(*) FROM realtime_tickets`); n != 1 {
		t.Errorf("%d tickets, want the new one alone: the expired ones stayed", n)
	}
	_, err = w.CreateTicket(t.Context(), eve.User.ID, ada.SessionID)
	wantCode(t, "another's session", err, fault.Unauthenticated, "unauthenticated")
}

func TestFindByPartnerCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.register(t, "ada@example.test")
	code := ada.User.PartnerCode
	for name, typed := range map[string]string{
		"as it is": code, "lower case": strings.ToLower(code), "grouped": code[:3] + "-" + code[3:6] + " " + code[6:],
		"letters for digits": strings.NewReplacer("0", "o", "1", "l").Replace(code),
	} {
		got, err := w.FindByPartnerCode(t.Context(), typed)
		if diff := cmp.Diff(accounts.Person{ID: ada.User.ID, DisplayName: "Ada"}, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	for name, typed := range map[string]string{"nobody's": identity.NewPartnerCode(), "prefix": code[:9], "empty": "", "pattern": "%", "long": code + "0"} {
		_, err := w.FindByPartnerCode(t.Context(), typed)
		wantCode(t, name, err, fault.NotFound, "user_not_found")
	}
	w.exec(t, `UPDATE users SET status = 4`)
	_, err := w.FindByPartnerCode(t.Context(), code)
	wantCode(t, "being deleted", err, fault.NotFound, "user_not_found")
}

func TestProfileCountsSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *accounts.Config) { c.Slots = 3 })
	ada, eve := w.register(t, "ada@example.test"), w.register(t, "eve@example.test")
	low, high := ada.User.ID, eve.User.ID
	if slices.Compare(low[:], high[:]) > 0 {
		low, high = high, low
	}
	w.exec(t, `INSERT INTO partnerships (id, low, high, status, started_at, version) VALUES ($1, $2, $3, 1, now(), 1)`, uuid.New(), low, high)
	w.exec(t, `INSERT INTO partnership_members (partnership_id, user_id, slot, active) SELECT id, $1, 2, true FROM partnerships`, ada.User.ID)
	w.exec(t, `UPDATE user_streams SET last_seq = 7 WHERE user_id = $1`, ada.User.ID)
	w.exec(t, `UPDATE users SET tier = 2 WHERE id = $1`, ada.User.ID)
	got, err := w.Profile(t.Context(), ada.User.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(accounts.Slots{Total: 3, Occupied: 1, Vacant: 2}, got.Slots); diff != "" || got.Seq != 7 || got.Tier != "premium" {
		t.Errorf("profile = %+v, slots (-want +got):\n%s", got, diff)
	}
	_, err = w.Profile(t.Context(), uuid.New())
	wantCode(t, "nobody", err, fault.NotFound, "user_not_found")
}
