package contract_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

func id(n byte) uuid.UUID { return uuid.UUID{0: n, 6: 0x40, 8: 0x80, 15: n} }

func topics() contract.Topics { return contract.NewTopics("test") }

const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// commands returns one command of each type with every field that its type uses.
func commands() map[string]partner.Command {
	at := time.Date(2026, 3, 1, 12, 30, 45, 123456000, time.UTC)
	pair := partner.PairOf(id(1), id(2))
	base := func(t partner.CommandType, n byte) partner.Command {
		return partner.Command{
			ID: id(n), Type: t, Issuer: id(1), Pair: pair, AcceptedAt: at,
			Fingerprint: [16]byte{0xde, 0xad, 0xbe, 0xef, 15: 0x01},
		}
	}
	with := func(c partner.Command, f func(*partner.Command)) partner.Command { f(&c); return c }
	return map[string]partner.Command{
		"send": with(base(partner.Send, 10), func(c *partner.Command) {
			c.Message, c.Fresh = "Grüße <3 & \"love\" ❤️\nsecond line", true
		}),
		"accept":  with(base(partner.Accept, 11), func(c *partner.Command) { c.RequestID, c.Fresh = id(20), true }),
		"decline": with(base(partner.Decline, 12), func(c *partner.Command) { c.RequestID = id(20) }),
		"cancel":  with(base(partner.Cancel, 13), func(c *partner.Command) { c.RequestID = id(20) }),
		"remove": with(base(partner.Remove, 14), func(c *partner.Command) {
			c.PartnershipID, c.Reason, c.Quiet = id(30), "we grew apart", true
		}),
		"supersede": with(base(partner.Supersede, 15), func(c *partner.Command) { c.RequestID, c.Cause, c.More = id(20), id(40), true }),
		"sweep": with(base(partner.Sweep, 16), func(c *partner.Command) {
			c.Pair, c.Cause = partner.PairOf(id(1), id(1)), id(40)
		}),
		"breakup-request": with(base(partner.AskBreakup, 17), func(c *partner.Command) {
			c.PartnershipID, c.Reason, c.Address, c.Device = id(30), "we grew apart", "2001:db8::7", "Pixel 9, Android 16"
		}),
		"breakup-accept":   with(base(partner.AcceptBreakup, 18), func(c *partner.Command) { c.BreakupID = id(41) }),
		"breakup-decline":  with(base(partner.DeclineBreakup, 19), func(c *partner.Command) { c.BreakupID = id(41) }),
		"breakup-withdraw": with(base(partner.WithdrawBreakup, 20), func(c *partner.Command) { c.BreakupID = id(41) }),
		"block":            with(base(partner.Block, 21), func(c *partner.Command) { c.Address = "192.0.2.1" }),
		"unblock":          base(partner.Unblock, 22),
		"nickname-set":     with(base(partner.SetNickname, 23), func(c *partner.Command) { c.Nickname = "Bärchen 🐻" }),
		"nickname-clear":   base(partner.ClearNickname, 24),
		"profile-update": with(base(partner.UpdateProfile, 25), func(c *partner.Command) {
			c.Pair = partner.PairOf(id(1), id(1))
			c.Profile = &partner.ProfilePatch{
				DisplayName: new("Ann"), Timezone: new("Europe/Vienna"), Locale: new("de-AT"), Presence: new(false), Preview: new("discreet"),
				Theme: &partner.Theme{Name: "custom", Entries: map[string]string{"accent": "#ff0066", "background": "stars"}},
			}
		}),
		"partner-code-change": with(base(partner.ChangeCode, 26), func(c *partner.Command) {
			c.Pair, c.Profile = partner.PairOf(id(1), id(1)), &partner.ProfilePatch{PartnerCode: new("7Q2M0KX4ZP")}
		}),
		"forfeit": with(base(partner.Forfeit, 27), func(c *partner.Command) { c.PartnershipID = id(30) }),
		"account-delete": with(base(partner.DeleteAccount, 28), func(c *partner.Command) {
			c.Pair = partner.PairOf(id(1), id(1))
		}),
		"notifications-read": with(base(partner.ReadInbox, 32), func(c *partner.Command) {
			c.Pair, c.ReadSeq = partner.PairOf(id(1), id(1)), 42
		}),
		"pair-close": with(base(partner.ClosePair, 29), func(c *partner.Command) { c.Cause, c.More = id(40), true }),
		"account-erase": with(base(partner.EraseAccount, 31), func(c *partner.Command) {
			c.Pair, c.Cause = partner.PairOf(id(1), id(1)), id(40)
		}),
	}
}

func event() contract.Event {
	at := time.Date(2026, 3, 1, 12, 30, 45, 0, time.UTC)
	return contract.Event{
		EventID: id(50), Type: "request.received", Version: 1, CommandID: id(10), Pair: partner.PairOf(id(1), id(2)).String(),
		Epoch: "a1b2c3", Seq: 7, AcceptedAt: at, AppliedAt: at.Add(4500 * time.Microsecond),
		Recipients:  []contract.Recipient{{UserID: id(2), InboxSeq: 3}},
		Data:        json.RawMessage(`{"requestId":"` + id(20).String() + `","fromUserId":"` + id(1).String() + `","expiresAt":"2026-03-08T12:30:45Z"}`),
		Traceparent: trace,
	}
}

func TestCommandRoundTrip(t *testing.T) {
	t.Parallel()
	for name, want := range commands() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec, err := contract.EncodeCommand(topics(), 12, want, trace)
			if err != nil {
				t.Fatal(err)
			}
			got, env, err := contract.DecodeCommand(rec)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
			wantEnv := contract.Envelope{ID: want.ID, Type: want.Type.String(), Version: 1, Issuer: want.Issuer, Pair: want.Pair}
			if diff := cmp.Diff(wantEnv, env); diff != "" {
				t.Errorf("envelope (-want +got):\n%s", diff)
			}
			if got, want := string(rec.Key), want.Pair.String(); got != want {
				t.Errorf("key %q, want %q", got, want)
			}
			if got, want := rec.Partition, contract.PartitionOf(rec.Key, 12); got != want {
				t.Errorf("partition %d, want %d", got, want)
			}
			source := "/bondmate/ingest"
			if want.FollowUp() {
				source = "/bondmate/processor"
			}
			for key, value := range map[string]string{
				"content-type": "application/json", "ce_specversion": "1.0", "ce_id": want.ID.String(),
				"ce_type": want.Type.String(), "ce_source": source, "ce_time": "2026-03-01T12:30:45.123456Z",
				"ce_subject": want.Pair.String(), "ce_pair": want.Pair.String(), "ce_commandid": want.ID.String(),
				"ce_seq": "", "traceparent": trace,
			} {
				if got := rec.Header(key); got != value {
					t.Errorf("header %s = %q, want %q", key, got, value)
				}
			}
		})
	}
}

func TestEncodeCommandCutsTimeToMicroseconds(t *testing.T) {
	t.Parallel()
	cmd := commands()["send"]
	want := cmd.AcceptedAt
	cmd.AcceptedAt = cmd.AcceptedAt.Add(789).In(time.FixedZone("east", 3600))
	rec, err := contract.EncodeCommand(topics(), 12, cmd, "")
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := contract.DecodeCommand(rec)
	if err != nil || got.AcceptedAt != want {
		t.Errorf("acceptedAt = %v, %v, want %v", got.AcceptedAt, err, want)
	}
}

// edited returns the record with one change to its value's text.
func edited(t *testing.T, rec contract.Record, from, to string) contract.Record {
	t.Helper()
	if !strings.Contains(string(rec.Value), from) {
		t.Fatalf("value has no %s: %s", from, rec.Value)
	}
	rec.Value = []byte(strings.Replace(string(rec.Value), from, to, 1))
	return rec
}

func TestDecodeCommandErrors(t *testing.T) {
	t.Parallel()
	accept, err := contract.EncodeCommand(topics(), 12, commands()["accept"], trace)
	if err != nil {
		t.Fatal(err)
	}
	low, high, stranger := id(1).String(), id(2).String(), id(3).String()
	bare := func(rec contract.Record) contract.Record { rec.Headers = nil; return rec }
	rekeyed := func(rec contract.Record, key string) contract.Record { rec.Key = []byte(key); return rec }
	valued := func(v string) contract.Record { rec := accept; rec.Value = []byte(v); return rec }
	tests := map[string]struct {
		rec  contract.Record
		want error
	}{
		"unknown field is ignored":          {edited(t, accept, `{`, `{"future":{"a":[1]},`), nil},
		"headers dropped by a sink":         {bare(accept), nil},
		"empty value":                       {valued(``), contract.ErrMalformed},
		"null":                              {valued(`null`), contract.ErrMalformed},
		"array":                             {valued(`[]`), contract.ErrMalformed},
		"not JSON":                          {valued(`{"commandId":`), contract.ErrMalformed},
		"trailing bytes":                    {valued(string(accept.Value) + `{}`), contract.ErrMalformed},
		"field of another JSON type":        {edited(t, accept, `"fresh":true`, `"fresh":"yes"`), contract.ErrMalformed},
		"command id in upper case":          {bare(edited(t, accept, id(11).String(), strings.ToUpper(id(11).String()))), contract.ErrMalformed},
		"command id as a URN":               {bare(edited(t, accept, id(11).String(), "urn:uuid:"+id(11).String())), contract.ErrMalformed},
		"nil command id":                    {bare(edited(t, accept, id(11).String(), uuid.Nil.String())), contract.ErrMalformed},
		"issuer not of the pair":            {edited(t, accept, `"issuer":"`+low, `"issuer":"`+stranger), contract.ErrMalformed},
		"no issuer":                         {edited(t, accept, `"issuer":"`+low+`",`, ``), contract.ErrMalformed},
		"pair in the wrong order":           {rekeyed(bare(edited(t, accept, low+":"+high, high+":"+low)), high+":"+low), contract.ErrMalformed},
		"pair without colon":                {edited(t, accept, low+":"+high, low+"-"+high), contract.ErrMalformed},
		"another key":                       {rekeyed(accept, low+":"+stranger), contract.ErrMalformed},
		"no key":                            {rekeyed(accept, ""), contract.ErrMalformed},
		"another id in the header":          {edited(t, accept, id(11).String(), id(12).String()), contract.ErrMalformed},
		"another type in the header":        {edited(t, accept, "request.accept", "request.decline"), contract.ErrMalformed},
		"no type":                           {bare(edited(t, accept, "request.accept", "")), contract.ErrMalformed},
		"version 0":                         {edited(t, accept, `"version":1`, `"version":0`), contract.ErrMalformed},
		"bad time":                          {edited(t, accept, "2026-03-01T", "2026-03-41T"), contract.ErrMalformed},
		"bad fingerprint":                   {edited(t, accept, "deadbeef", "deadbeeg"), contract.ErrMalformed},
		"short fingerprint":                 {edited(t, accept, "deadbeef", "dead"), contract.ErrMalformed},
		"bad request id":                    {edited(t, accept, `"requestId":"`, `"requestId":"x`), contract.ErrMalformed},
		"no request id":                     {edited(t, accept, `"requestId":"`+id(20).String()+`",`, ``), contract.ErrMalformed},
		"supersede by a user":               {bare(edited(t, accept, "request.accept", "request.supersede")), contract.ErrMalformed},
		"sweep by a user":                   {bare(edited(t, accept, "request.accept", "request.sweep")), contract.ErrMalformed},
		"unknown type":                      {bare(edited(t, accept, "request.accept", "user.poke")), contract.ErrUnknown},
		"newer version":                     {edited(t, accept, `"version":1`, `"version":2`), contract.ErrUnknown},
		"newer version, field of new type":  {edited(t, edited(t, accept, `"version":1`, `"version":2`), `"fresh":true`, `"fresh":{"why":1}`), contract.ErrUnknown},
		"unknown type, field of new type":   {bare(edited(t, edited(t, accept, "request.accept", "user.poke"), `"fresh":true`, `"fresh":3`)), contract.ErrUnknown},
		"newer version without issuer":      {edited(t, edited(t, accept, `"version":1`, `"version":2`), `"issuer"`, `"by"`), contract.ErrMalformed},
		"newer version under another key":   {rekeyed(edited(t, accept, `"version":1`, `"version":2`), "x"), contract.ErrMalformed},
		"unknown type, issuer outside pair": {bare(edited(t, edited(t, accept, "request.accept", "user.suspend"), `"issuer":"`+low, `"issuer":"`+stranger)), contract.ErrUnknown},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, env, err := contract.DecodeCommand(tt.rec)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil && errors.Is(err, contract.ErrMalformed) == errors.Is(err, contract.ErrUnknown) {
				t.Errorf("error %v is not exactly one of the two kinds", err)
			}
			if errors.Is(tt.want, contract.ErrUnknown) {
				want := contract.Envelope{ID: id(11), Type: env.Type, Version: env.Version, Issuer: env.Issuer, Pair: partner.PairOf(id(1), id(2))}
				if env != want || env.Type == "" || env.Issuer == uuid.Nil {
					t.Errorf("envelope %+v is not whole", env)
				}
			}
		})
	}
}

func TestDecodeErrorsRepeatNoContent(t *testing.T) {
	t.Parallel()
	const secret = "confession"
	for _, field := range []string{"commandId", "issuer", "pair", "acceptedAt", "fingerprint", "requestId", "message", "fresh", "version", "type"} {
		rec, err := contract.EncodeCommand(topics(), 12, commands()["accept"], "")
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(rec.Value, &m); err != nil {
			t.Fatal(err)
		}
		m[field] = secret
		if rec.Value, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if _, _, err := contract.DecodeCommand(rec); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error repeats the value: %v", field, err)
		}
	}
}

func TestEncodeCommandRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*partner.Command){
		"no id":               func(c *partner.Command) { c.ID = uuid.Nil },
		"no issuer":           func(c *partner.Command) { c.Issuer = uuid.Nil },
		"issuer not of pair":  func(c *partner.Command) { c.Issuer = id(9) },
		"pair not canonical":  func(c *partner.Command) { c.Pair.Low, c.Pair.High = c.Pair.High, c.Pair.Low },
		"no request id":       func(c *partner.Command) { c.RequestID = uuid.Nil },
		"type without number": func(c *partner.Command) { c.Type = 99 },
	}
	for name, edit := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := commands()["accept"]
			edit(&cmd)
			if _, err := contract.EncodeCommand(topics(), 12, cmd, ""); !errors.Is(err, contract.ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
		})
	}
}

func TestEventRoundTrip(t *testing.T) {
	t.Parallel()
	nobody := event()
	nobody.Recipients, nobody.Data, nobody.Traceparent, nobody.Type = []contract.Recipient{}, nil, "", "command.applied"
	newer := event()
	newer.Type = "something.new"
	for name, want := range map[string]contract.Event{"one recipient": event(), "no audience": nobody, "type from the future": newer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec, err := contract.EncodeEvent("test.events.v1", 5, want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := contract.DecodeEvent(rec)
			if err != nil {
				t.Fatal(err)
			}
			if want.Data == nil {
				want.Data = json.RawMessage(`{}`)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			for key, value := range map[string]string{
				"content-type": "application/json", "ce_specversion": "1.0", "ce_id": id(50).String(), "ce_type": want.Type,
				"ce_source": "/bondmate/processor", "ce_time": "2026-03-01T12:30:45.0045Z", "ce_subject": want.Pair, "ce_pair": want.Pair,
				"ce_commandid": id(10).String(), "ce_seq": "7", "ce_epoch": "a1b2c3", "traceparent": want.Traceparent,
			} {
				if got := rec.Header(key); got != value {
					t.Errorf("header %s = %q, want %q", key, got, value)
				}
			}
			if rec.Partition != 5 || string(rec.Key) != want.Pair {
				t.Errorf("partition %d key %q, want 5 %q", rec.Partition, rec.Key, want.Pair)
			}
		})
	}
}

func TestDecodeEventErrors(t *testing.T) {
	t.Parallel()
	rec, err := contract.EncodeEvent("test.events.v1", 5, event())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		from, to string
		want     error
	}{
		"unknown field":   {`{`, `{"future":1,`, nil},
		"newer version":   {`"version":1`, `"version":2`, contract.ErrUnknown},
		"version 0":       {`"version":1`, `"version":0`, contract.ErrMalformed},
		"no epoch":        {`"epoch":"a1b2c3"`, `"epoch":""`, contract.ErrMalformed},
		"seq 0":           {`"seq":7`, `"seq":0`, contract.ErrMalformed},
		"inboxSeq 0":      {`"inboxSeq":3`, `"inboxSeq":0`, contract.ErrMalformed},
		"bad recipient":   {`"userId":"`, `"userId":"x`, contract.ErrMalformed},
		"bad event id":    {`"eventId":"`, `"eventId":"x`, contract.ErrMalformed},
		"bad command id":  {`"commandId":"`, `"commandId":"x`, contract.ErrMalformed},
		"bad pair":        {`"pair":"`, `"pair":"x`, contract.ErrMalformed},
		"bad acceptedAt":  {`"acceptedAt":"2026`, `"acceptedAt":"x`, contract.ErrMalformed},
		"bad appliedAt":   {`"appliedAt":"2026`, `"appliedAt":"x`, contract.ErrMalformed},
		"data is a list":  {`"data":{`, `"data":[],"x":{`, contract.ErrMalformed},
		"no data":         {`"data":{`, `"x":{`, contract.ErrMalformed},
		"another id":      {id(50).String(), id(51).String(), contract.ErrMalformed},
		"another type":    {`request.received`, `request.sent`, contract.ErrMalformed},
		"truncated":       {`}]`, ``, contract.ErrMalformed},
		"seq is a string": {`"seq":7`, `"seq":"7"`, contract.ErrMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ev, err := contract.DecodeEvent(edited(t, rec, tt.from, tt.to))
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if errors.Is(tt.want, contract.ErrUnknown) && ev.EventID != id(50) {
				t.Errorf("a newer version came without its envelope: %+v", ev)
			}
		})
	}
}

func TestDeadLetterRoundTrip(t *testing.T) {
	t.Parallel()
	want := contract.DeadLetter{
		Topic: "test.commands.v1", Partition: 3, Offset: 42, Error: "malformed record: type is missing",
		Time: time.Date(2026, 3, 1, 12, 30, 45, 6000, time.UTC), Key: []byte("anything"), By: contract.ByProcessor,
	}
	rec, err := contract.EncodeDeadLetter("test.deadletter.v1", 3, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := contract.DecodeDeadLetter(rec)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dead letter (-want +got):\n%s", diff)
	}
	other := want
	other.Offset++
	if rec.Header("ce_id") != want.ID().String() || want.ID() == other.ID() {
		t.Errorf("ids do not tell the places apart: %s %s", rec.Header("ce_id"), other.ID())
	}
	if rec.Header("ce_type") != contract.DeadLetterType || rec.Topic != "test.deadletter.v1" || rec.Partition != 3 {
		t.Errorf("record %+v", rec)
	}
}

func BenchmarkEncodeCommand(b *testing.B) {
	cmd, t := commands()["send"], topics()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contract.EncodeCommand(t, 12, cmd, trace); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeCommand(b *testing.B) {
	rec, err := contract.EncodeCommand(topics(), 12, commands()["send"], trace)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := contract.DecodeCommand(rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeEvent(b *testing.B) {
	ev := event()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contract.EncodeEvent("e", 1, ev); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeEvent(b *testing.B) {
	rec, err := contract.EncodeEvent("e", 1, event())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contract.DecodeEvent(rec); err != nil {
			b.Fatal(err)
		}
	}
}
