package notifier

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

// text returns a text in English, the language of every user so far.
func text(key textKey) string {
	switch key {
	case textTitle:
		return "Bond Mate"
	case textRequestReceived:
		return "You have a partner request"
	case textRequestAccepted:
		return "Your partner request was accepted"
	case textRequestDeclined:
		return "Your partner request was declined"
	case textPartnershipEnded:
		return "A partnership has ended"
	case textBreakupRequested:
		return "Your partner would like to part"
	case textBreakupDeclined:
		return "Your partner would like to stay"
	case textDiscreet:
	}
	return "You have an update"
}

// bodyOf returns what a locked screen shows.
func bodyOf(preview string, key textKey) string {
	if preview != previewFull {
		key = textDiscreet
	}
	return text(key)
}
