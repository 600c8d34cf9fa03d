package partingtest

import (
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/embedded/fcm"
)

// slow is longer than it takes to leave while a call is under way.
const slow = 3 * time.Second

// sending waits until the person's phone is being called.
func (p *person) sending() {
	p.w.t.Helper()
	eventually(p.w.t, "the push's call", func() bool {
		return one[int](p.w, `SELECT count(*) FROM push_deliveries WHERE user_id = $1 AND seq > $2 AND status = 2`, p.UserID, p.acked) > 0
	})
}

// sent waits until the person's phone has a push that it has not acknowledged.
func (p *person) sent() {
	p.w.t.Helper()
	eventually(p.w.t, "the push", func() bool {
		return one[int](p.w, `SELECT count(*) FROM push_deliveries WHERE user_id = $1 AND seq > $2 AND outcome = 'delivered'`, p.UserID, p.acked) > 0
	})
}

func leaveQueued(w *world) {
	ana, ben, bens := w.couple()
	ana.askToPart()
	ben.nothingMore(bens, ana, ana.leaveQuietly())
}

func leaveInFlight(w *world) {
	ana, ben, bens := w.couple()
	w.Pushes.Script(ben.token, fcm.Answer{Delay: slow})
	ana.askToPart()
	ben.sending()
	ben.nothingMore(bens, ana, ana.leaveQuietly(), "breakup.requested", "withdrawn")
}

func leaveSent(w *world) {
	ana, ben, bens := w.couple()
	ana.askToPart()
	ben.sent()
	ben.nothingMore(bens, ana, ana.leaveQuietly(), "breakup.requested", "withdrawn")
}

// The push of the ending takes the same place on the phone: it comes after.
func leaveAloud(w *world) {
	ana, ben, bens := w.couple()
	ana.askToPart()
	ben.sent()
	ana.call(http.MethodPost, partners+"/remove", map[string]any{}, http.StatusOK)
	ben.nothingMore(bens, ana, time.Now(), "breakup.requested", "withdrawn", "partnership.ended")
}

func blockPartner(w *world) {
	ana, ben, bens := w.couple()
	ana.askToPart()
	ben.sent()
	ben.nothingMore(bens, ana, ana.block(ben), "breakup.requested", "withdrawn")
}

// The one who blocks hears no more of whom she blocks, however the two race.
func blockComing(w *world) {
	ana := w.person("ana")
	anas := ana.watch()
	eve := w.person("eve")
	// A first request, so that there is something to withdraw whoever wins.
	eve.call(http.MethodDelete, partners+"/request/"+eve.ask(ana), nil, http.StatusOK)
	var race sync.WaitGroup
	race.Go(func() {
		if _, err := eve.Send(w.t.Context(), ana.UserID); err != nil {
			w.t.Errorf("ask: %v", err)
		}
	})
	ended := ana.block(eve)
	race.Wait()
	if _, err := eve.Send(w.t.Context(), ana.UserID, phone.Wait(10)); err != nil { // whatever came of it, what was before it is applied
		w.t.Fatal(err)
	}
	ana.nothingMore(anas, eve, ended)
}

func blockInFlight(w *world) {
	ana, eve := w.person("ana"), w.person("eve")
	anas := ana.watch()
	w.Pushes.Script(ana.token, fcm.Answer{Delay: slow})
	eve.ask(ana)
	ana.sending()
	ana.nothingMore(anas, eve, ana.block(eve), "request.received", "withdrawn")
}

func deleteMidRequest(w *world) {
	ana, ben := w.person("ana"), w.person("ben")
	bens := ben.watch()
	request, err := uuid.Parse(ana.ask(ben))
	if err != nil {
		w.t.Fatal(err)
	}
	var race sync.WaitGroup
	race.Go(func() {
		if _, err := ben.Accept(w.t.Context(), request); err != nil {
			w.t.Errorf("accept: %v", err)
		}
	})
	ana.call(http.MethodDelete, "/api/account", map[string]any{"password": phone.Password}, http.StatusOK)
	ended := time.Now()
	race.Wait()
	ben.nothingMore(bens, ana, ended)
}

// A session that has ended has no devices: no push to them begins any more.
func logoutQueued(w *world) {
	ben, friend := w.person("ben"), w.person("friend")
	friend.ask(ben)
	eventually(w.t, "the push to be due", func() bool {
		return one[int](w, `SELECT count(*) FROM push_deliveries WHERE user_id = $1`, ben.UserID) == 1
	})
	ben.call(http.MethodPost, "/api/auth/logout", nil, http.StatusNoContent)
	if n := one[int](w, `SELECT count(*) FROM devices WHERE user_id = $1`, ben.UserID); n != 0 {
		w.t.Errorf("%d devices are left", n)
	}
	eventually(w.t, "the push to be settled", func() bool {
		return one[int](w, `SELECT count(*) FROM push_deliveries WHERE user_id = $1 AND status < 3`, ben.UserID) == 0
	})
	if types, _ := ben.pushed(); len(types) != 0 {
		w.t.Errorf("pushed after the logout: %v", types)
	}
}

// What was committed and not published when its owner died is published by the next one,
// after the ending: as placeholders, save what a look at the inbox found before it.
func ownerKilled(w *world) {
	ana, ben, bens := w.couple()
	bystander := w.person("bystander")
	post := func(p *person, method, path string, body any) uuid.UUID {
		answer, err := p.Do(w.t.Context(), method, path, body)
		if err != nil || answer.Status != http.StatusAccepted {
			w.t.Fatalf("%s %s: %v %d %s", method, path, err, answer.Status, answer.Body)
		}
		return answer.Outcome().CommandID
	}
	name := map[string]any{"displayName": "Another name"}
	var leave uuid.UUID
	w.LoseOwner(w.t, Posts{
		Bystander: bystander.UserID,
		First:     func() { post(bystander, http.MethodPatch, "/api/profile", name) },
		Rest: func() []uuid.UUID {
			renamed := post(ana, http.MethodPatch, "/api/profile", name)
			asked := post(ana, http.MethodPost, partners+"/breakup", map[string]any{})
			leave = post(ana, http.MethodPost, partners+"/remove", map[string]any{"quiet": true})
			return []uuid.UUID{renamed, asked, leave}
		},
	})
	ben.nothingMore(bens, ana, one[time.Time](w, `SELECT applied_at FROM commands WHERE id = $1`, leave))
}
