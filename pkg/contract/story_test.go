package contract_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// story lets two people go through everything that the core can make of them, and returns
// an event of each kind and flavour by name, as the processor would put it on its topic.
func story(t testing.TB) map[string]contract.Event {
	t.Helper()
	low, high := id(1), id(2)
	pair := partner.PairOf(low, high)
	st := partner.State{Pair: partner.PairState{Pair: pair}, Users: map[uuid.UUID]partner.User{}}
	for _, u := range []uuid.UUID{low, high} {
		st.Users[u] = partner.User{ID: u, Status: partner.UserActive, Slots: []int16{1}}
	}
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	n := byte(100)
	var seq int64
	events := map[string]contract.Event{}
	do := func(wait time.Duration, cmd partner.Command) uuid.UUID {
		now = now.Add(wait)
		n++
		cmd.ID, cmd.AcceptedAt = id(n), now
		couple := st.Pair
		if cmd.Pair == (partner.Pair{}) {
			cmd.Pair = pair
		} else {
			st.Pair = partner.PairState{Pair: cmd.Pair}
		}
		d := partner.Decide(partner.DefaultLimits(), st, cmd)
		if st = d.Next; cmd.Pair != pair {
			st.Pair = couple
		}
		for _, e := range d.Events {
			data, err := json.Marshal(e.Data)
			if err != nil {
				t.Fatal(err)
			}
			seq++
			recipients := make([]contract.Recipient, 0, len(e.Recipients))
			for _, r := range e.Recipients {
				recipients = append(recipients, contract.Recipient{UserID: r, InboxSeq: seq})
			}
			name := e.Type.String()
			for flavour, is := range map[string]bool{
				"-crossed": e.Data.Crossed, "-silent": e.Data.Silent, "-restored": e.Data.Restored != nil && *e.Data.Restored,
				"-breakup": e.Type == partner.EventPartnershipEnded && e.Data.BreakupID != nil,
				"-issuer":  e.Type == partner.EventCommandApplied && len(e.Recipients) == 1,
				"-partner": e.Type == partner.EventProfileUpdated && e.Recipients[0] != cmd.Issuer,
			} {
				if is {
					name += flavour
				}
			}
			if _, told := events[name]; !told {
				events[name] = contract.Event{
					EventID: e.ID, Type: e.Type.String(), Version: contract.Version, CommandID: e.CommandID, Pair: e.Pair.String(),
					Epoch: "5f3a9c01d2e4", Seq: seq, AcceptedAt: cmd.AcceptedAt, AppliedAt: e.At.Add(3210 * time.Microsecond),
					Recipients: recipients, Data: data, Traceparent: trace,
				}
			}
		}
		return partner.RequestIDOf(cmd.ID)
	}
	const hour, day = time.Hour, 24 * time.Hour
	r := do(0, partner.Command{Type: partner.Send, Issuer: low})
	do(hour, partner.Command{Type: partner.Decline, Issuer: high, RequestID: r})
	r = do(day, partner.Command{Type: partner.Send, Issuer: low})
	do(hour, partner.Command{Type: partner.Cancel, Issuer: low, RequestID: r})
	r = do(hour, partner.Command{Type: partner.Send, Issuer: low})
	do(8*day, partner.Command{Type: partner.Accept, Issuer: high, RequestID: r}) // expired
	r = do(hour, partner.Command{Type: partner.Send, Issuer: low})
	do(hour, partner.Command{Type: partner.Supersede, Issuer: low, RequestID: r, Cause: id(9)})
	do(hour, partner.Command{Type: partner.Supersede, Issuer: low, RequestID: r, Cause: id(10)})
	r = do(hour, partner.Command{Type: partner.Send, Issuer: low})
	do(hour, partner.Command{Type: partner.Accept, Issuer: high, RequestID: r})
	do(day, partner.Command{Type: partner.Remove, Issuer: high})
	do(day, partner.Command{Type: partner.Send, Issuer: low})
	do(hour, partner.Command{Type: partner.Send, Issuer: high}) // crosses and restores
	do(day, partner.Command{Type: partner.Remove, Issuer: low, Quiet: true})
	do(31*day, partner.Command{Type: partner.Remove, Issuer: low}) // archived, then rejected

	r = do(hour, partner.Command{Type: partner.Send, Issuer: low})
	do(hour, partner.Command{Type: partner.Accept, Issuer: high, RequestID: r})
	do(hour, partner.Command{Type: partner.SetNickname, Issuer: high, Nickname: "Bear"})
	do(hour, partner.Command{Type: partner.UpdateProfile, Issuer: low, Pair: partner.PairOf(low, low), Profile: &partner.ProfilePatch{
		DisplayName: new("Ann"), Locale: new("de-AT"),
	}})
	breakup := func() uuid.UUID {
		do(hour, partner.Command{Type: partner.AskBreakup, Issuer: low, Reason: "we grew apart"})
		return partner.BreakupIDOf(id(n))
	}
	do(hour, partner.Command{Type: partner.DeclineBreakup, Issuer: high, BreakupID: breakup()})
	do(hour, partner.Command{Type: partner.WithdrawBreakup, Issuer: low, BreakupID: breakup()})
	do(hour, partner.Command{Type: partner.AcceptBreakup, Issuer: high, BreakupID: breakup()})
	do(hour, partner.Command{Type: partner.Forfeit, Issuer: high, PartnershipID: st.Pair.Partnership.ID})
	do(hour, partner.Command{Type: partner.Block, Issuer: high})
	reader := st.Users[low]
	reader.LastSeq = 12
	st.Users[low] = reader
	do(hour, partner.Command{Type: partner.ReadInbox, Issuer: low, Pair: partner.PairOf(low, low), ReadSeq: 9})
	do(hour, partner.Command{Type: partner.DeleteAccount, Issuer: low, Pair: partner.PairOf(low, low)})
	return events
}

// sample returns every record that this code can write, by name.
func sample(t testing.TB) map[string]contract.Record {
	t.Helper()
	records := map[string]contract.Record{}
	for name, cmd := range commands() {
		rec, err := contract.EncodeCommand(contract.NewTopics(contract.DefaultPrefix), contract.DefaultPartitions, cmd, trace)
		if err != nil {
			t.Fatal(err)
		}
		records["command-"+name] = rec
		if cmd.FollowUp() {
			continue
		}
		// The same with all that any command may say of where it comes from.
		cmd.Address, cmd.Device = "203.0.113.7", "Bond Mate 3.1 (Android 16)"
		cmd.Cause = id(66)
		if rec, err = contract.EncodeCommand(contract.NewTopics(contract.DefaultPrefix), contract.DefaultPartitions, cmd, trace); err != nil {
			t.Fatal(err)
		}
		records["command-"+name+"-full"] = rec
	}
	for name, ev := range story(t) {
		key := []byte(ev.Pair)
		rec, err := contract.EncodeEvent(contract.NewTopics(contract.DefaultPrefix).Events, contract.PartitionOf(key, contract.DefaultPartitions), ev)
		if err != nil {
			t.Fatal(err)
		}
		records["event-"+name] = rec
		if ev.Type == partner.EventPartnershipEnded.String() || ev.Type == partner.EventPartnershipArchived.String() {
			records["event-"+name+"-since"] = rec // the records of these names are older than some of the fields
		}
	}
	rec, err := contract.EncodeDeadLetter(contract.NewTopics(contract.DefaultPrefix).DeadLetter, 3, contract.DeadLetter{
		Topic: "bondmate.commands.v1", Partition: 3, Offset: 42, Error: "decode command: malformed record: type is missing",
		Time: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC), Key: []byte(partner.PairOf(id(1), id(2)).String()),
	})
	if err != nil {
		t.Fatal(err)
	}
	records["deadletter"] = rec
	if rec, err = contract.EncodeDeadLetter(contract.NewTopics(contract.DefaultPrefix).DeadLetter, 1, contract.DeadLetter{
		Topic: "bondmate.events.v1", Partition: 1, Offset: 43, Error: "decode event: malformed record: epoch is missing",
		Time: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC), Key: []byte("key"), By: contract.ByNotifier,
	}); err != nil {
		t.Fatal(err)
	}
	records["deadletter-notifier"] = rec
	if rec, err = contract.EncodeSessionRevoked(contract.NewTopics(contract.DefaultPrefix).Control, contract.DefaultPartitions, contract.SessionRevoked{
		UserID: id(1), SessionID: id(70), Reason: contract.RevokedByReplay, Time: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
	}); err != nil {
		t.Fatal(err)
	}
	records["control-session-revoked"] = rec
	if rec, err = contract.EncodePresence(contract.NewTopics(contract.DefaultPrefix).Presence, contract.DefaultPartitions, contract.Presence{
		UserID: id(1), Instance: id(80), Online: true, Time: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
	}); err != nil {
		t.Fatal(err)
	}
	records["presence"] = rec
	for name, o := range map[string]contract.PushOutcome{"delivered": ended(), "replaced": takenBack()} {
		if rec, err = contract.EncodePushOutcome(contract.NewTopics(contract.DefaultPrefix).Pushes, contract.DefaultPartitions, o); err != nil {
			t.Fatal(err)
		}
		records["push-"+name] = rec
	}
	for name, rec := range states(t) {
		records[name] = rec
	}
	return records
}

// states returns records of the compacted topics by name.
func states(t testing.TB) map[string]contract.Record {
	t.Helper()
	topics, pair := contract.NewTopics(contract.DefaultPrefix), partner.PairOf(id(1), id(2))
	at := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	state := func(version int64, after time.Duration) contract.State {
		return contract.State{
			EventID: id(byte(version)), Version: version, Epoch: "5f3a9c01d2e4", AcceptedAt: at.Add(after), AppliedAt: at.Add(after + 3210*time.Microsecond),
		}
	}
	const day = 24 * time.Hour
	couple := contract.Couple{State: state(17, 0), Pair: pair, PartnershipID: id(80), Status: partner.PartnershipActive, StartedAt: at}
	ended := couple
	ended.State, ended.Status, ended.EndedAt = state(21, day), partner.PartnershipEnded, at.Add(day)
	restored := couple
	restored.State, restored.RestoredCount = state(30, 2*day), 1
	archived := ended
	archived.State, archived.Status, archived.RestoredCount = state(44, 40*day), partner.PartnershipArchived, 1
	gone := contract.Couple{State: state(50, 50*day), Pair: pair}
	user := contract.User{
		State: state(3, 0), UserID: id(1), CreatedDay: "2026-03-01", Tier: "free", Locale: "de-AT", Timezone: "Europe/Vienna",
		Status: partner.UserActive.String(),
	}
	forgotten := contract.User{State: state(51, 50*day), UserID: id(1)}
	gone.Erased, forgotten.Erased = true, true

	out := map[string]contract.Record{}
	for name, c := range map[string]contract.Couple{"active": couple, "ended": ended, "restored": restored, "archived": archived, "erased": gone} {
		rec, err := contract.EncodeCouple(topics.Couples, contract.PartitionOf([]byte(pair.String()), contract.DefaultPartitions), c)
		if err != nil {
			t.Fatal(err)
		}
		out["couple-"+name] = rec
	}
	for name, u := range map[string]contract.User{"active": user, "erased": forgotten} {
		rec, err := contract.EncodeUser(topics.Users, contract.DefaultPartitions, u)
		if err != nil {
			t.Fatal(err)
		}
		out["user-"+name] = rec
	}
	return out
}

func TestStoryTellsEveryEvent(t *testing.T) {
	t.Parallel()
	events := story(t)
	for _, kind := range partner.EventTypes() {
		if _, ok := events[kind.String()]; !ok {
			t.Errorf("the story has no %s", kind)
		}
	}
	for _, name := range []string{"request.accepted-crossed", "partnership.started-restored", "partnership.ended-silent", "partnership.ended-breakup", "command.applied-issuer", "profile.updated-partner"} {
		if _, ok := events[name]; !ok {
			t.Errorf("the story has no %s", name)
		}
	}
}
