package notifier

import (
	"embed"
	"encoding/json"
	"fmt"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

// textKey names a text of a push in every language.
type textKey string

// The text keys. No text has a place for what people wrote: no message, reason or nickname.
const (
	textTitle            textKey = "push.title"
	textDiscreet         textKey = "push.discreet"
	textRequestReceived  textKey = "push.request_received"
	textRequestAccepted  textKey = "push.request_accepted"
	textRequestDeclined  textKey = "push.request_declined"
	textPartnershipEnded textKey = "push.partnership_ended"
	textBreakupRequested textKey = "push.breakup_requested"
	textBreakupDeclined  textKey = "push.breakup_declined"
)

// previewFull is the value of users.push_preview that allows a push to say what it is
// about. Everything else means discreet.
const previewFull = "full"

// locales holds one file a language; English has every text, and is what a user of none of
// these languages reads.
//
//go:embed locales/active.*.json
var locales embed.FS

// texts are what pushes say, in every language. They are safe for concurrent use.
type texts struct{ bundle *i18n.Bundle }

func loadTexts() (texts, error) {
	bundle := i18n.NewBundle(language.English)
	bundle.RegisterUnmarshalFunc("json", json.Unmarshal)
	files, err := locales.ReadDir("locales")
	if err != nil {
		return texts{}, fmt.Errorf("list texts of pushes: %w", err)
	}
	for _, file := range files {
		if _, err := bundle.LoadMessageFileFS(locales, "locales/"+file.Name()); err != nil {
			return texts{}, fmt.Errorf("read texts of pushes: %w", err)
		}
	}
	return texts{bundle}, nil
}

// text returns a text in the language of a locale (BCP 47), or in the nearest one that
// there is. A key of another release is the discreet text.
func (t texts) text(locale string, key textKey) string {
	localizer := i18n.NewLocalizer(t.bundle, locale)
	for _, id := range []textKey{key, textDiscreet} {
		// With an error, too, when only English has it: that text is returned and meant.
		if text, _ := localizer.Localize(&i18n.LocalizeConfig{MessageID: string(id)}); text != "" {
			return text
		}
	}
	return ""
}

// body returns what a locked screen shows.
func (t texts) body(locale, preview string, key textKey) string {
	if preview != previewFull {
		key = textDiscreet
	}
	return t.text(locale, key)
}
