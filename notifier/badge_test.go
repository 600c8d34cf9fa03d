package notifier

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// holds puts an event into the user's inbox, as the processor does.
func (w *world) holds(ev contract.Event, user uuid.UUID, seq int64, origin uuid.UUID) {
	w.t.Helper()
	kind, _ := partner.ParseEventType(ev.Type)
	w.exec(`INSERT INTO user_streams (user_id, last_seq) VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET last_seq = $2`, user, seq)
	w.exec(`INSERT INTO events (partition, seq, topic, id, type, low, high, command_id, accepted_at, applied_at, data)
		VALUES (0, $1, 1, $2, $3, $4, $4, $5, $6, $6, $7)`,
		seq, ev.EventID, int16(kind), user, ev.CommandID, ev.AppliedAt, ev.Data)
	w.exec(`INSERT INTO inbox (user_id, seq, partition, event_seq, origin) VALUES ($1, $2, 0, $2, $3)`, user, seq, origin)
}

// badges returns what the calls for a token say about the number on the app's icon: by APNS,
// by Android and in the data.
func (w *world) badges(token string) []string {
	w.t.Helper()
	var out []string
	for _, p := range w.fcm.Recent(token) {
		var msg struct {
			Data    struct{ Type, Unread string }
			Android struct {
				Notification struct {
					Count json.Number `json:"notification_count"`
				}
			}
			APNS struct {
				Headers map[string]string
				Payload struct{ Aps struct{ Badge json.Number } }
			}
			Notification *struct{}
		}
		if err := json.Unmarshal(p.Message, &msg); err != nil {
			w.t.Fatal(err)
		}
		shown := "shown"
		if msg.Notification == nil {
			shown = "not shown, as " + msg.APNS.Headers["apns-push-type"]
		}
		out = append(out, msg.Data.Type+": "+msg.APNS.Payload.Aps.Badge.String()+"/"+msg.Android.Notification.Count.String()+
			"/"+msg.Data.Unread+" "+shown)
	}
	return out
}

// The number on the icon is what the API calls unread, at the time of the call; reading on one
// device brings it to the others, and to them alone.
func TestBadge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	tablet, tabletSession := uuid.New(), uuid.New()
	now := time.Now()
	w.exec(`INSERT INTO sessions (id, user_id, refresh_hash, created_at, last_used_at, expires_at) VALUES ($1, $2, $3, $4, $4, $5)`,
		tabletSession, p.user, tabletSession[:], now, now.Add(time.Hour))
	w.exec(`INSERT INTO devices (id, user_id, session_id, kind, value, platform, created_at, updated_at)
		VALUES ($1, $2, $3, 'fcm', 'tablet', 'ios', $4, $4)`, tablet, p.user, tabletSession, now)
	n := w.notifier(w.config())
	w.background(n.Run)
	stranger := uuid.New()
	for seq := int64(1); seq <= 2; seq++ {
		ev := received(seq, p.user)
		w.holds(ev, p.user, seq, stranger)
		w.deliver(n, ev)
		w.awaitSettled(int(2 * seq))
	}
	own := event(partner.EventProfileUpdated, partner.EventData{}, 3, p.user)
	w.holds(own, p.user, 3, p.user)

	// All is read on the phone, whose visible socket acknowledges that, in the quiet hours.
	w.wants(p.user, []string{}, true, now)
	four := int64(4)
	read := event(partner.EventInboxRead, partner.EventData{ReadSeq: &four}, 4, p.user)
	w.holds(read, p.user, 4, p.user)
	w.exec(`UPDATE user_streams SET read_seq = 4 WHERE user_id = $1`, p.user)
	w.exec(`INSERT INTO acks (user_id, session_id, seq, visible_seq, updated_at) VALUES ($1, $2, 4, 4, now())`, p.user, p.session)
	w.deliver(n, read)
	if diff := cmp.Diff(map[Outcome]int{Delivered: 5, Suppressed: 1}, w.awaitSettled(6)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	shown := []string{"request.received: 1/1/ shown", "request.received: 2/2/ shown"}
	if diff := cmp.Diff(shown, w.badges("phone")); diff != "" {
		t.Errorf("the phone (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(shown, "inbox.read: 0//0 not shown, as alert"), w.badges("tablet")); diff != "" {
		t.Errorf("the tablet (-want +got):\n%s", diff)
	}
}
