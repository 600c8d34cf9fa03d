package accounts

import (
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

const (
	maxEmailBytes    = 254 // RFC 5321: 256 with the angle brackets
	maxLocalBytes    = 64  // RFC 5321, 4.5.3.1.1
	minPasswordChars = 8
	maxPasswordChars = 256
	maxPasswordBytes = 4 * maxPasswordChars
	maxNameChars     = 100
	// maxPushAddress keeps (kind, value) inside a B-tree entry (2,704 bytes); FCM's are under 300.
	maxPushAddress = 2048
)

// Device says how a session is named in the list of sessions.
type Device struct {
	Name       string `json:"name,omitempty"`       // ≤ 100 characters
	Platform   string `json:"platform,omitempty"`   // ≤ 40
	Model      string `json:"model,omitempty"`      // ≤ 100
	OSVersion  string `json:"osVersion,omitempty"`  // ≤ 40
	AppVersion string `json:"appVersion,omitempty"` // ≤ 40
}

// faults gathers what is wrong with an input, so that all of it is told at once.
type faults []fault.Field

func (f *faults) add(pointer, code, detail string) {
	*f = append(*f, fault.Field{Pointer: pointer, Code: code, Detail: detail})
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	e := fault.New(fault.Invalid, "invalid_request", "The request is not valid.")
	e.Fields = f
	return e
}

// text returns free text as it is stored: sanitised. A required one must show something.
func (f *faults) text(pointer, s string, required bool, maxChars int) string {
	clean, err := partner.SanitizeText(s, maxChars)
	if err != nil {
		f.add(pointer, "invalid", fmt.Sprintf("must be text of at most %d characters", maxChars))
		return ""
	}
	if required && !strings.ContainsFunc(clean, unicode.IsPrint) {
		f.add(pointer, "required", "must not be empty")
	}
	return clean
}

func (f *faults) email(pointer, s string) string {
	email, ok := normaliseEmail(s)
	if !ok {
		f.add(pointer, "invalid", "must be an e-mail address")
	}
	return email
}

// password bounds a new password. It says nothing about which characters: length is
// what counts (NIST SP 800-63B, 3.1.1.2).
func (f *faults) password(pointer, s string) {
	chars := utf8.RuneCountInString(norm.NFC.String(s))
	switch {
	case !utf8.ValidString(s) || len(s) > maxPasswordBytes || chars > maxPasswordChars:
		f.add(pointer, "too_long", fmt.Sprintf("must have at most %d characters", maxPasswordChars))
	case chars < minPasswordChars:
		f.add(pointer, "too_short", fmt.Sprintf("must have at least %d characters", minPasswordChars))
	}
}

func (f *faults) birthDate(pointer string, d *time.Time, now time.Time) {
	if d != nil && (d.After(now) || d.Year() < 1900) {
		f.add(pointer, "invalid", "must be a date from 1900 until today")
	}
}

// oldEnough demands a birth date by which somebody is of age, in years, where an age is
// demanded at all. The date is that of UTC. Who is born on a 29 February has the birthday of
// other years on 1 March.
func (f *faults) oldEnough(pointer string, born *time.Time, years int, now time.Time) {
	switch {
	case years == 0:
	case born == nil:
		f.add(pointer, "required", "must be given")
	case time.Date(born.Year()+years, born.Month(), born.Day(), 0, 0, 0, 0, time.UTC).After(now):
		f.add(pointer, "too_young", fmt.Sprintf("must be at least %d years ago", years))
	}
}

// consent demands agreement to the terms of today, where any are configured.
func (f *faults) consent(pointer, given, demanded string) {
	switch {
	case demanded == "":
	case given == "":
		f.add(pointer, "required", fmt.Sprintf("must agree to version %s of the terms", demanded))
	case given != demanded:
		f.add(pointer+"/version", "outdated", fmt.Sprintf("must be %s", demanded))
	}
}

func (f *faults) device(pointer string, d *Device) *Device {
	if d == nil {
		return nil
	}
	return &Device{
		Name:       f.text(pointer+"/name", d.Name, false, 100),
		Platform:   f.text(pointer+"/platform", d.Platform, false, 40),
		Model:      f.text(pointer+"/model", d.Model, false, 100),
		OSVersion:  f.text(pointer+"/osVersion", d.OSVersion, false, 40),
		AppVersion: f.text(pointer+"/appVersion", d.AppVersion, false, 40),
	}
}

// pushAddress accepts what providers hand out: printable ASCII without spaces.
func (f *faults) pushAddress(pointer, s string) {
	bad := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	if s == "" || len(s) > maxPushAddress || bad >= 0 {
		f.add(pointer, "invalid", fmt.Sprintf("must be 1 to %d printable ASCII characters", maxPushAddress))
	}
}

// normaliseEmail returns the form under which an address is unique: NFC and lower case.
func normaliseEmail(s string) (string, bool) {
	if len(s) > 2*maxEmailBytes || !utf8.ValidString(s) {
		return "", false
	}
	s = norm.NFC.String(strings.ToLower(norm.NFC.String(strings.TrimSpace(s))))
	at := strings.LastIndexByte(s, '@')
	if len(s) > maxEmailBytes || at < 1 || at > maxLocalBytes {
		return "", false
	}
	// Format characters (Cf) are neither printed nor seen: they would make two addresses
	// that look the same.
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
		return "", false
	}
	// Equal, so neither a display name nor a comment nor a quoted local part.
	if addr, err := mail.ParseAddress(s); err != nil || addr.Address != s {
		return "", false
	}
	return s, true
}
