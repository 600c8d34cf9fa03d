package ingest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// last returns the command that was written last, without what is new at every call.
func (q *queue) last(t *testing.T) partner.Command {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.newest.Value == nil {
		t.Fatal("nothing was written")
	}
	cmd, _, err := contract.DecodeCommand(q.newest)
	must(t, err)
	if cmd.ID == uuid.Nil || cmd.AcceptedAt.IsZero() || cmd.Fingerprint == [16]byte{} {
		t.Errorf("command lacks id, time or fingerprint: %+v", cmd)
	}
	cmd.ID, cmd.AcceptedAt, cmd.Fingerprint = uuid.Nil, time.Time{}, [16]byte{}
	return cmd
}

const partners = "/api/enhanced-partners"

func at[T any](v T) *T { return &v }

func TestCommandsAsWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	id := ana.send(ben, "Prefer", "wait=5").text("requestId")
	accepted := ben.call("PUT", partners+"/request/"+id+"/accept", nil, "Prefer", "wait=5")
	partnership, breakup := uuid.MustParse(accepted.text("result", "partnershipId")), uuid.New()
	_, err := w.pool.Exec(t.Context(), `
		INSERT INTO breakups (id, partnership_id, low, high, asker, status, created_at, expires_at)
		SELECT $1, id, low, high, $2, 1, now(), now() + interval '7 days' FROM partnerships`, breakup, ana.id)
	must(t, err)
	w.queue.set(func(q *queue) { q.paused = true })
	pair, self := partner.PairOf(ana.id, ben.id), partner.PairOf(ana.id, ana.id)
	patch := func(p partner.ProfilePatch) partner.Command {
		return partner.Command{Type: partner.UpdateProfile, Pair: self, Profile: &p}
	}
	const profile, nicknames = "/api/profile", "/api/nicknames"
	for name, c := range map[string]struct {
		method, path string
		body         any
		want         partner.Command
	}{
		"name":           {"PATCH", profile, map[string]any{"displayName": " A\u202ena\n "}, patch(partner.ProfilePatch{DisplayName: at("Ana")})},
		"theme":          {"PATCH", profile, map[string]any{"theme": "water"}, patch(partner.ProfilePatch{Theme: &partner.Theme{Name: "water"}})},
		"custom theme":   {"PATCH", profile, map[string]any{"theme": "custom", "themeEntries": map[string]any{"primary": "#e91e63\u0007"}}, patch(partner.ProfilePatch{Theme: &partner.Theme{Name: "custom", Entries: map[string]string{"primary": "#e91e63"}}})},
		"place":          {"PATCH", profile, map[string]any{"timezone": "Europe/Vienna", "locale": "de-at"}, patch(partner.ProfilePatch{Timezone: at("Europe/Vienna"), Locale: at("de-AT")})},
		"privacy":        {"PATCH", profile, map[string]any{"privacy": map[string]any{"presence": true, "preview": "full"}}, patch(partner.ProfilePatch{Presence: at(true), Preview: at("full")})},
		"nickname":       {"POST", nicknames, map[string]any{"targetUserId": ben.id, "nickname": "Ba\u0308r\u2069 "}, partner.Command{Type: partner.SetNickname, Pair: pair, Nickname: "Bär"}},
		"nickname gone":  {"DELETE", nicknames + "/" + ben.id.String(), nil, partner.Command{Type: partner.ClearNickname, Pair: pair}},
		"block":          {"PUT", partners + "/blocks/" + ben.id.String(), nil, partner.Command{Type: partner.Block, Pair: pair}},
		"block oneself":  {"PUT", partners + "/blocks/" + ana.id.String(), nil, partner.Command{Type: partner.Block, Pair: self}},
		"unblock":        {"DELETE", partners + "/blocks/" + ben.id.String(), nil, partner.Command{Type: partner.Unblock, Pair: pair}},
		"breakup":        {"POST", partners + "/breakup", nil, partner.Command{Type: partner.AskBreakup, Pair: pair}},
		"breakup why":    {"POST", partners + "/breakup", map[string]any{"partnershipId": partnership, "reason": "a\u0000b"}, partner.Command{Type: partner.AskBreakup, Pair: pair, PartnershipID: partnership, Reason: "ab"}},
		"breakup yes":    {"PUT", partners + "/breakup/" + breakup.String() + "/accept", nil, partner.Command{Type: partner.AcceptBreakup, Pair: pair, BreakupID: breakup}},
		"breakup no":     {"PUT", partners + "/breakup/" + breakup.String() + "/reject", nil, partner.Command{Type: partner.DeclineBreakup, Pair: pair, BreakupID: breakup}},
		"breakup back":   {"DELETE", partners + "/breakup/" + breakup.String(), nil, partner.Command{Type: partner.WithdrawBreakup, Pair: pair, BreakupID: breakup}},
		"forfeit":        {"POST", partners + "/restorable/" + partnership.String() + "/forfeit", nil, partner.Command{Type: partner.Forfeit, Pair: pair, PartnershipID: partnership}},
		"longest name":   {"PATCH", profile, map[string]any{"displayName": strings.Repeat("😀", 100)}, patch(partner.ProfilePatch{DisplayName: at(strings.Repeat("😀", 100))})},
		"longest nick":   {"POST", nicknames, map[string]any{"targetUserId": ben.id, "nickname": strings.Repeat("é", 50)}, partner.Command{Type: partner.SetNickname, Pair: pair, Nickname: strings.Repeat("é", 50)}},
		"markup is text": {"POST", nicknames, map[string]any{"targetUserId": ben.id, "nickname": "<b>'; DROP"}, partner.Command{Type: partner.SetNickname, Pair: pair, Nickname: "<b>'; DROP"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := ana.call(c.method, c.path, c.body)
			if got.status != http.StatusAccepted {
				t.Fatalf("%d %s", got.status, got.raw)
			}
			c.want.Issuer = ana.id
			if diff := cmp.Diff(c.want, w.queue.last(t), cmpopts.IgnoreFields(partner.Command{}, "Address", "Device")); diff != "" {
				t.Error(diff)
			}
		})
	}
	for range 2 {
		ana.call("POST", profile+"/partner-code", nil)
		cmd := w.queue.last(t)
		if cmd.Type != partner.ChangeCode || cmd.Pair != self || cmd.Profile == nil || cmd.Profile.PartnerCode == nil || len(*cmd.Profile.PartnerCode) != 10 || *cmd.Profile.PartnerCode == ana.code {
			t.Errorf("partner code: %+v", cmd)
		}
	}
}

func TestRefusedBeforeTheyAreWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	before := w.queue.count()
	entries := map[string]any{}
	for range 21 {
		entries[uuid.NewString()] = "x"
	}
	const profile, nicknames = "/api/profile", "/api/nicknames"
	for name, c := range map[string]struct {
		method, path string
		body         any
		errors       []string
	}{
		"nothing to change":       {"PATCH", profile, map[string]any{}, []string{" required"}},
		"no privacy to change":    {"PATCH", profile, map[string]any{"privacy": map[string]any{}}, []string{"/privacy required"}},
		"unseen name":             {"PATCH", profile, map[string]any{"displayName": "\u200b\u202e\u2066"}, []string{"/displayName too_short"}},
		"long name":               {"PATCH", profile, map[string]any{"displayName": strings.Repeat("é", 101)}, []string{"/displayName too_long"}},
		"theme":                   {"PATCH", profile, map[string]any{"theme": "fire"}, []string{"/theme not_allowed"}},
		"entries alone":           {"PATCH", profile, map[string]any{"themeEntries": map[string]any{"a": "b"}}, []string{"/themeEntries not_allowed"}},
		"entries of no custom":    {"PATCH", profile, map[string]any{"theme": "dark", "themeEntries": map[string]any{"a": "b"}}, []string{"/themeEntries not_allowed"}},
		"many entries":            {"PATCH", profile, map[string]any{"theme": "custom", "themeEntries": entries}, []string{"/themeEntries too_long"}},
		"entry's name":            {"PATCH", profile, map[string]any{"theme": "custom", "themeEntries": map[string]any{"a b": "c"}}, []string{"/themeEntries wrong_format"}},
		"long entry":              {"PATCH", profile, map[string]any{"theme": "custom", "themeEntries": map[string]any{"a": strings.Repeat("x", 41)}}, []string{"/themeEntries/a too_long"}},
		"entry of another type":   {"PATCH", profile, map[string]any{"theme": "custom", "themeEntries": map[string]any{"a": 1}}, []string{"/themeEntries/a wrong_type"}},
		"time zone":               {"PATCH", profile, map[string]any{"timezone": "Europe/Nowhere"}, []string{"/timezone wrong_format"}},
		"the machine's time zone": {"PATCH", profile, map[string]any{"timezone": "Local"}, []string{"/timezone wrong_format"}},
		"time zone as a path":     {"PATCH", profile, map[string]any{"timezone": "../../etc/passwd"}, []string{"/timezone wrong_format"}},
		"the machine's zone file": {"PATCH", profile, map[string]any{"timezone": "localtime"}, []string{"/timezone wrong_format"}},
		"the machine's rules":     {"PATCH", profile, map[string]any{"timezone": "posix/Europe/Vienna"}, []string{"/timezone wrong_format"}},
		"a number past int64":     {"POST", "/api/notifications/read", `{"seq":9223372036854775808}`, []string{"/seq wrong_type"}},
		"locale":                  {"PATCH", profile, map[string]any{"locale": "not a tag"}, []string{"/locale wrong_format"}},
		"preview":                 {"PATCH", profile, map[string]any{"privacy": map[string]any{"preview": "all"}}, []string{"/privacy/preview not_allowed"}},
		"code of one's choice":    {"PATCH", profile, map[string]any{"partnerCode": "0000000000"}, []string{"/partnerCode unknown_field"}},
		"empty nickname":          {"POST", nicknames, map[string]any{"targetUserId": ana.id, "nickname": " \t\u200e"}, []string{"/nickname too_short"}},
		"long nickname":           {"POST", nicknames, map[string]any{"targetUserId": ana.id, "nickname": strings.Repeat("é", 51)}, []string{"/nickname too_long"}},
		"nickname for nobody":     {"POST", nicknames, map[string]any{"nickname": "x"}, []string{"/targetUserId required"}},
		"nickname of no id":       {"DELETE", nicknames + "/x", nil, []string{"targetUserId wrong_format"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := ana.call(c.method, c.path, c.body)
			wantProblem(t, got, 400, "invalid_request")
			var errs []string
			list, _ := got.body["errors"].([]any)
			for _, e := range list {
				e := e.(map[string]any)
				errs = append(errs, e["pointer"].(string)+" "+e["code"].(string))
			}
			slices.Sort(errs)
			if diff := cmp.Diff(c.errors, errs); diff != "" {
				t.Errorf("%s\n%s", diff, got.raw)
			}
		})
	}
	if got := w.queue.count(); got != before {
		t.Errorf("%d commands were written", got-before)
	}
}

func TestNicknamesAreTheirOwnersAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, eve := w.register("Ana"), w.register("Ben"), w.register("Eve")
	id := ana.send(ben, "Prefer", "wait=5").text("requestId")
	ben.call("PUT", "/api/enhanced-partners/request/"+id+"/accept", nil, "Prefer", "wait=5")
	_, err := w.pool.Exec(t.Context(), `
		INSERT INTO nicknames (owner, target, nickname, updated_at)
		VALUES ($1, $2, 'Bear', now()), ($1, $3, 'Evil', now() - interval '1 hour')`, ana.id, ben.id, eve.id)
	must(t, err)
	if got := ana.get("/api/nicknames/" + ben.id.String()); got.text("nickname") != "Bear" {
		t.Errorf("nickname: %s", got.raw)
	}
	wantProblem(t, ben.get("/api/nicknames/"+ben.id.String()), 404, "not_found")
	wantProblem(t, ben.get("/api/nicknames/"+ana.id.String()), 404, "not_found")
	first := ana.get("/api/nicknames?limit=1")
	second := ana.get("/api/nicknames?limit=1&cursor=" + first.text("nextCursor"))
	names := []any{first.body["nicknames"].([]any)[0].(map[string]any)["nickname"], second.body["nicknames"].([]any)[0].(map[string]any)["nickname"]}
	if diff := cmp.Diff([]any{"Bear", "Evil"}, names); diff != "" || second.body["nextCursor"] != nil {
		t.Errorf("%s: %s", diff, second.raw)
	}
	if got := ben.get("/api/nicknames"); len(got.body["nicknames"].([]any)) != 0 {
		t.Errorf("Ben's nicknames: %s", got.raw)
	}
	if got := ana.get("/api/enhanced-partners/current"); got.text("partner", "nickname") != "Bear" {
		t.Errorf("current of Ana: %s", got.raw)
	}
	if got := ben.get("/api/enhanced-partners/current"); strings.Contains(string(got.raw), "nickname") {
		t.Errorf("current of Ben: %s", got.raw)
	}
}

// A cut leaves the sequence without a gap and takes everything else (G9).
func TestWithdrawnNotifications(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	for range 5 {
		ana.send(w.register("Other"), "Prefer", "wait=5")
	}
	w.countable()
	_, err := w.pool.Exec(t.Context(), `UPDATE inbox SET origin = $2 WHERE user_id = $1 AND seq IN (1, 2, 4)`, ana.id, ben.id)
	must(t, err)
	// Two that overlap, and one of somebody else.
	_, err = w.pool.Exec(t.Context(), `
		INSERT INTO cuts (recipient, origin, after_seq, last_seq, made_at)
		VALUES ($1, $2, 1, 4, now()), ($1, $2, 3, 5, now()), ($2, $1, 0, 9, now())`, ana.id, ben.id)
	must(t, err)
	got := ana.get("/api/notifications")
	var kinds []string
	for i, e := range got.body["events"].([]any) {
		e := e.(map[string]any)
		if e["seq"] != float64(i+1) {
			t.Errorf("seq %v at %d", e["seq"], i)
		}
		kinds = append(kinds, e["type"].(string))
		if data := e["data"].(map[string]any); (e["type"] == "withdrawn") != (len(data) == 0) {
			t.Errorf("data of %v", e)
		}
	}
	want := []string{"request.declined", "withdrawn", "request.declined", "withdrawn", "request.declined"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("%s: %s", diff, got.raw)
	}
	if got.body["unread"] != 3.0 || got.body["lastSeq"] != 5.0 {
		t.Errorf("unread: %s", got.raw)
	}
	_, err = w.pool.Exec(t.Context(), `INSERT INTO acks (user_id, session_id, seq, updated_at) SELECT $1, id, 3, now() FROM sessions WHERE user_id = $1`, ana.id)
	must(t, err)
	if got := ana.get("/api/notifications"); got.body["unread"] != 1.0 {
		t.Errorf("unread after an acknowledgement: %s", got.raw)
	}
}

// Being left quietly puts nothing on the badge; the events are there all the same.
func TestSilentNotificationsAreNotUnread(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	for range 3 {
		ana.send(w.register("Other"), "Prefer", "wait=5")
	}
	w.countable()
	tag, err := w.pool.Exec(t.Context(), `
		UPDATE events v SET data = '{"silent":true,"slot":1}' FROM inbox i
		WHERE i.user_id = $1 AND i.seq IN (1, 3) AND v.partition = i.partition AND v.seq = i.event_seq`, ana.id)
	must(t, err)
	if tag.RowsAffected() != 2 {
		t.Fatalf("%d events made silent", tag.RowsAffected())
	}
	got := ana.get("/api/notifications")
	if len(got.body["events"].([]any)) != 3 || got.body["lastSeq"] != 3.0 || got.body["unread"] != 1.0 {
		t.Errorf("notifications: %s", got.raw)
	}
	_, err = w.pool.Exec(t.Context(), `INSERT INTO acks (user_id, session_id, seq, updated_at) SELECT $1, id, 2, now() FROM sessions WHERE user_id = $1`, ana.id)
	must(t, err)
	if got := ana.get("/api/notifications"); got.body["unread"] != 0.0 {
		t.Errorf("unread after an acknowledgement: %s", got.raw)
	}
}

// countable makes all events so far ones that count as unread.
func (w *world) countable() {
	w.t.Helper()
	_, err := w.pool.Exec(w.t.Context(), `UPDATE events SET type = $1`, int16(partner.EventRequestDeclined))
	must(w.t, err)
}

// What is unread is what somebody else did or time brought, after the mark: also after what
// was marked, not only after what was acknowledged.
func TestUnread(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.register("Ana")
	for range 8 {
		ana.send(w.register("Other"), "Prefer", "wait=5")
	}
	w.countable()
	change := func(seq int, event, inbox string) {
		t.Helper()
		for _, sql := range []string{event, inbox} {
			if sql == "" {
				continue
			}
			_, err := w.pool.Exec(t.Context(), sql, ana.id, seq)
			must(t, err)
		}
	}
	const of = ` FROM inbox i WHERE i.user_id = $1 AND i.seq = $2 AND v.partition = i.partition AND v.seq = i.event_seq`
	change(2, `UPDATE events v SET type = 13`+of, "")
	change(3, `UPDATE events v SET data = json_build_object('byUserId', $1::uuid)`+of, "")
	change(4, `UPDATE events v SET data = json_build_object('fromUserId', $1::uuid)`+of, "")
	change(5, "", `UPDATE inbox SET origin = $1 WHERE user_id = $1 AND seq = $2`)
	change(6, `UPDATE events v SET type = 21`+of, "")
	if got := ana.get("/api/notifications?limit=1"); got.body["unread"] != 3.0 || got.body["readSeq"] != 0.0 {
		t.Errorf("unread: %s", got.raw)
	}
	_, err := w.pool.Exec(t.Context(), `UPDATE user_streams SET read_seq = 7 WHERE user_id = $1`, ana.id)
	must(t, err)
	for _, path := range []string{"/api/notifications", "/api/sync"} {
		if got := ana.get(path); got.body["unread"] != 1.0 || got.body["readSeq"] != 7.0 {
			t.Errorf("%s after the mark: %s", path, got.raw)
		}
	}
}

func TestReadNotifications(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue.set(func(q *queue) { q.paused = true })
	ana := w.register("Ana")
	for name, body := range map[string]any{
		"no seq": map[string]any{}, "below zero": map[string]any{"seq": -1}, "no number": map[string]any{"seq": "3"},
		"a fraction": map[string]any{"seq": 1.5}, "no int64": `{"seq":9223372036854775808}`, "an unknown field": map[string]any{"seq": 1, "all": true}, "no body": nil,
	} {
		if got := ana.call(http.MethodPost, "/api/notifications/read", body); got.status != 400 && got.status != 415 {
			t.Errorf("%s: %d %s", name, got.status, got.raw)
		}
	}
	if n := w.queue.count(); n != 0 {
		t.Fatalf("%d commands of bad calls", n)
	}
	got := ana.call(http.MethodPost, "/api/notifications/read", map[string]any{"seq": 1 << 40})
	if got.status != http.StatusAccepted {
		t.Fatalf("read: %d %s", got.status, got.raw)
	}
	cmd, _, err := contract.DecodeCommand(w.queue.newest)
	must(t, err)
	if cmd.Type != partner.ReadInbox || cmd.Pair != partner.PairOf(ana.id, ana.id) || cmd.ReadSeq != 1<<40 {
		t.Errorf("command: %+v", cmd)
	}
}

// What is left out stays, what is wrong changes nothing, and the preview is the profile's.
func TestPreferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben := w.register("Ana"), w.register("Ben")
	const path = "/api/notifications/preferences"
	shown := func(who user) string {
		t.Helper()
		got := who.get(path)
		if got.status != http.StatusOK {
			t.Fatalf("preferences: %d %s", got.status, got.raw)
		}
		return string(bytes.TrimSpace(got.raw))
	}
	const defaults = `{"categories":{"partnership":true,"requests":true},"preview":"discreet","quietHours":{"enabled":false,"from":"22:00","to":"07:00"}}`
	if got := shown(ana); got != defaults {
		t.Errorf("at first: %s", got)
	}
	put := func(body any) answer { t.Helper(); return ana.call(http.MethodPut, path, body) }
	for _, step := range []struct{ body, want string }{
		{`{}`, defaults},
		{``, defaults},
		{`{"categories":{"partnership":false}}`, `{"categories":{"partnership":false,"requests":true},"preview":"discreet","quietHours":{"enabled":false,"from":"22:00","to":"07:00"}}`},
		{`{"quietHours":{"enabled":true,"to":"06:30"},"preview":"full"}`, `{"categories":{"partnership":false,"requests":true},"preview":"full","quietHours":{"enabled":true,"from":"22:00","to":"06:30"}}`},
		{`{"categories":{"requests":false}}`, `{"categories":{"partnership":false,"requests":false},"preview":"full","quietHours":{"enabled":true,"from":"22:00","to":"06:30"}}`},
		{`{"categories":{"requests":true,"partnership":true},"quietHours":{"enabled":false,"from":"00:00"}}`, `{"categories":{"partnership":true,"requests":true},"preview":"full","quietHours":{"enabled":false,"from":"00:00","to":"06:30"}}`},
	} {
		got := put(step.body)
		if got.status != http.StatusOK || string(bytes.TrimSpace(got.raw)) != step.want || shown(ana) != step.want {
			t.Errorf("%s: %d %s, then %s, want %s", step.body, got.status, got.raw, shown(ana), step.want)
		}
	}
	before := shown(ana)
	for body, pointer := range map[string]string{
		`{"categories":{"gossip":false}}`:                                     "/categories/gossip",
		`{"categories":{"requests":"no"}}`:                                    "/categories/requests",
		`{"preview":"loud"}`:                                                  "/preview",
		`{"quietHours":{"from":"24:00"}}`:                                     "/quietHours/from",
		`{"quietHours":{"from":"7:00"}}`:                                      "/quietHours/from",
		`{"quietHours":{"enabled":true,"from":"06:30"},"preview":"discreet"}`: "/quietHours/to",
		`{"mute":true}`:                                                       "/mute",
	} {
		got := put(body)
		wantProblem(t, got, 400, "invalid_request")
		if errors, _ := got.body["errors"].([]any); len(errors) != 1 || errors[0].(map[string]any)["pointer"] != pointer {
			t.Errorf("%s: %s", body, got.raw)
		}
	}
	if got := shown(ana); got != before {
		t.Errorf("what was refused changed something: %s", got)
	}
	if got := ana.get("/api/profile"); got.text("privacy", "preview") != "full" {
		t.Errorf("the profile: %s", got.raw)
	}
	if got := ana.get("/api/sync"); got.body["preferences"].(map[string]any)["preview"] != "full" {
		t.Errorf("the snapshot: %s", got.raw)
	}
	if got := ana.get("/api/account/export"); got.body["preferences"].(map[string]any)["preview"] != "full" {
		t.Errorf("the export: %s", got.raw)
	}
	if got := shown(ben); got != defaults {
		t.Errorf("somebody else's: %s", got)
	}
	_, err := w.pool.Exec(t.Context(), `UPDATE users SET status = $2 WHERE id = $1`, ben.id, int16(partner.UserDeleting))
	must(t, err)
	wantProblem(t, ben.call(http.MethodPut, path, map[string]any{}), 409, "account_deleting")
}

// The numbers are of one's own lists: what is deleted there is not counted, and what is
// overdue is no answer.
func TestStatistics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana, ben, cem := w.register("Ana"), w.register("Ben"), w.register("Cem")
	const path = "/api/enhanced-partners/statistics"
	shown := func(who user) string {
		t.Helper()
		got := who.get(path)
		if got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.raw)
		}
		delete(got.body, "current")
		text, err := json.Marshal(got.body)
		must(t, err)
		return string(text)
	}
	const none = `{"partnerships":{"active":0,"longestDays":0,"restored":0,"total":0},"requests":{"medianSecondsToAccept":null,"received":{"accepted":0,"declined":0,"total":0},"sent":{"accepted":0,"declined":0,"total":0}}}`
	if got := shown(ana); got != none {
		t.Errorf("at first: %s", got)
	}
	for _, sql := range []string{
		`INSERT INTO requests (id, sender, target, status, created_at, expires_at, resolved_at) VALUES
			(gen_random_uuid(), $1, $2, 2, now() - interval '60 s', now(), now() - interval '50 s'),
			(gen_random_uuid(), $2, $1, 2, now() - interval '60 s', now(), now() - interval '30 s'),
			(gen_random_uuid(), $1, $3, 3, now() - interval '60 s', now(), now()),
			(gen_random_uuid(), $3, $1, 1, now() - interval '9 days', now() - interval '2 days', NULL),
			(gen_random_uuid(), $3, $2, 2, now() - interval '60 s', now(), now())`,
		`WITH p AS (INSERT INTO partnerships (id, low, high, status, started_at, ended_at, restored_count, version)
				SELECT gen_random_uuid(), LEAST(o, $1), GREATEST(o, $1), s, now() - b, now() - e, n, 1
				FROM (VALUES ($2::uuid, 1, interval '49 hours', NULL::interval, 2), ($3::uuid, 3, interval '100 days', interval '90 days', 1),
					($3::uuid, 3, interval '400 days', interval '200 days', 5)) AS v (o, s, b, e, n)
				RETURNING id, status, ended_at)
			INSERT INTO partnership_members (partnership_id, user_id, slot, active, deleted_at)
			SELECT id, $1::uuid, 1, status = 1, CASE WHEN ended_at < now() - interval '150 days' THEN now() END FROM p`,
	} {
		_, err := w.pool.Exec(t.Context(), sql, ana.id, ben.id, cem.id)
		must(t, err)
	}
	const want = `{"partnerships":{"active":1,"longestDays":10,"restored":3,"total":2},"requests":{"medianSecondsToAccept":20,"received":{"accepted":1,"declined":0,"total":2},"sent":{"accepted":1,"declined":1,"total":2}}}`
	if got := shown(ana); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	current := ana.get(path).body["current"].([]any)
	if len(current) != 1 || current[0].(map[string]any)["days"] != 2.0 {
		t.Errorf("current: %v", current)
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// The password proves who asks, and goes no further: not into the record, not into the
// fingerprint that a replay is told by, not into a log.
func TestPasswordStaysHere(t *testing.T) {
	t.Parallel()
	const password = "a long pass phrase"
	var log syncBuffer
	w := newWorld(t, func(c *ingest.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ana := w.register("Ana")
	w.queue.set(func(q *queue) { q.paused = true })
	remove := func(body any) answer {
		return ana.call("DELETE", "/api/account", body, "Idempotency-Key", "once", "User-Agent", "App\u202e/1")
	}
	wantProblem(t, remove(map[string]any{"password": "a wrong one"}), 400, "invalid_request")
	if n := w.queue.count(); n != 0 {
		t.Fatalf("%d records", n)
	}
	first := remove(map[string]any{"password": password})
	cmd := w.queue.last(t)
	want := partner.Command{Type: partner.DeleteAccount, Issuer: ana.id, Pair: partner.PairOf(ana.id, ana.id), Address: "127.0.0.1", Device: "App/1"}
	if diff := cmp.Diff(want, cmd); first.status != 202 || diff != "" {
		t.Errorf("%d: %s", first.status, diff)
	}
	if again := remove(nil); again.status != 202 || again.header.Get("Idempotency-Replayed") != "true" { // the login is fresh
		t.Errorf("without the password: %d %s", again.status, again.raw)
	}
	_, err := w.pool.Exec(t.Context(), `UPDATE sessions SET created_at = created_at - interval '6 minutes'`)
	must(t, err)
	wantProblem(t, remove(nil), 403, "forbidden")
	wantProblem(t, remove(map[string]any{}), 403, "forbidden")
	w.queue.mu.Lock()
	record := fmt.Sprintf("%s %v", w.queue.newest.Value, w.queue.newest.Headers)
	w.queue.mu.Unlock()
	for where, text := range map[string]string{"the record": record, "the log": log.String()} {
		if strings.Contains(text, password) || strings.Contains(text, "a wrong one") {
			t.Errorf("%s holds a password: %s", where, text)
		}
	}
}
