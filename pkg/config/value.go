package config

import (
	"errors"
	"slices"
	"strings"
)

// Env is the kind of installation.
type Env string

// The kinds of installation.
const (
	Development Env = "development"
	Test        Env = "test"
	Production  Env = "production"
)

var environments = []string{string(Development), string(Test), string(Production)}

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Env) UnmarshalText(text []byte) error { return choose((*string)(e), text, environments) }

// LogLevel is the least important level that is logged.
type LogLevel string

var logLevels = []string{"debug", "info", "warn", "error"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LogLevel) UnmarshalText(text []byte) error { return choose((*string)(l), text, logLevels) }

// LogFormat is how log lines look.
type LogFormat string

var logFormats = []string{"auto", "text", "json"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LogFormat) UnmarshalText(text []byte) error { return choose((*string)(l), text, logFormats) }

// SASLMechanism is how the brokers learn who this is; empty: not at all.
type SASLMechanism string

// The mechanism that sends the password itself.
const saslPlain SASLMechanism = "PLAIN"

var saslMechanisms = []string{string(saslPlain), "SCRAM-SHA-256", "SCRAM-SHA-512"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *SASLMechanism) UnmarshalText(text []byte) error {
	value := strings.ToUpper(string(text))
	if !slices.Contains(saslMechanisms, value) {
		return errNotAllowed
	}
	*m = SASLMechanism(value)
	return nil
}

// Switch is on or off; true, false, 1 and 0 are understood as well.
type Switch bool

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Switch) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "on", "true", "1":
		*s = true
	case "off", "false", "0":
		*s = false
	default:
		return errNotAllowed
	}
	return nil
}

// String returns on or off.
func (s Switch) String() string {
	if s {
		return "on"
	}
	return "off"
}

var errNotAllowed = errors.New("not an allowed value")

func choose(into *string, text []byte, allowed []string) error {
	value := strings.ToLower(string(text))
	if !slices.Contains(allowed, value) {
		return errNotAllowed
	}
	*into = value
	return nil
}

func oneOf(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
