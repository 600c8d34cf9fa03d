package notifier

import (
	"encoding/json"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newTexts(t *testing.T) texts {
	t.Helper()
	said, err := loadTexts()
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func TestPreview(t *testing.T) {
	t.Parallel()
	said := newTexts(t)
	for _, tc := range []struct{ locale, preview, want string }{
		{"en", "discreet", "You have an update"},
		{"en", "full", "You have a partner request"},
		{"en", "", "You have an update"},
		{"en", "something newer", "You have an update"},
		{"de-AT", "full", "Du hast eine Partneranfrage"},
		{"de-AT", "discreet", "Es gibt etwas Neues"},
		{"pt-PT", "full", "Você recebeu um pedido de parceria"},
		{"es-419", "full", "Tienes una solicitud de pareja"},
		{"ja", "full", "You have a partner request"},
		{"", "full", "You have a partner request"},
		{"no language", "full", "You have a partner request"},
	} {
		if got := said.body(tc.locale, tc.preview, textRequestReceived); got != tc.want {
			t.Errorf("%q with preview %q shows %q, want %q", tc.locale, tc.preview, got, tc.want)
		}
	}
	if got := said.body("fr", "full", "push.of_an_old_release"); got != "Vous avez du nouveau" {
		t.Errorf("a text that is gone shows %q", got)
	}
}

// Every language has every text, each once, and none that says more than a locked screen may
// when it is to be discreet.
func TestEveryLanguageHasEveryText(t *testing.T) {
	t.Parallel()
	want := []string{string(textTitle), string(textDiscreet)}
	for _, r := range rules() {
		if r.pushed && !r.quietly {
			want = append(want, string(r.text))
		}
	}
	slices.Sort(want)
	files, err := fs.Glob(locales, "locales/active.*.json")
	if err != nil {
		t.Fatal(err)
	}
	var languages []string
	for _, file := range files {
		languages = append(languages, file[len("locales/active."):len(file)-len(".json")])
		content, err := locales.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var said map[string]string
		if err := json.Unmarshal(content, &said); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(said))); diff != "" {
			t.Errorf("keys of %s (-want +got):\n%s", file, diff)
		}
		distinct := map[string]bool{}
		for _, text := range said {
			if text == "" || distinct[text] {
				t.Errorf("%s says %q twice, or nothing", file, text)
			}
			distinct[text] = true
		}
	}
	if diff := cmp.Diff([]string{"de", "en", "es", "fr", "hi", "pt"}, languages); diff != "" {
		t.Errorf("languages (-want +got):\n%s", diff)
	}
}

func TestPushSpeaksTheUsersLanguage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone("phone")
	w.exec(`UPDATE users SET locale = 'hi-IN', push_preview = 'full' WHERE id = $1`, p.user)
	n := w.notifier(w.config())
	w.deliver(n, received(1, p.user))
	w.background(n.Run)
	w.awaitSettled(1)
	var got struct {
		Notification struct{ Title, Body string }
	}
	if err := json.Unmarshal(w.fcm.Recent("phone")[0].Message, &got); err != nil {
		t.Fatal(err)
	}
	if got.Notification.Title != "Bond Mate" || got.Notification.Body != "आपको एक पार्टनर अनुरोध मिला है" {
		t.Errorf("the phone shows %+v", got.Notification)
	}
}
