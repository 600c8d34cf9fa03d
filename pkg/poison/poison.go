// Package poison has the words in which operators and the processor speak about parked
// commands, through the table parked_actions.
//
// Whoever asks for a retry or a drop writes a row there and nothing else. The owner of the
// pair's partition carries it out behind its fence (package processor), so that a decision
// takes effect exactly once, whoever crashes, and in the order of the pair.
package poison

import "github.com/google/uuid"

// Why a command waits in parked_commands. The names are stored.
const (
	UnknownType  = "unknown_type"  // a newer program's, for that program to apply
	NewerVersion = "newer_version" // the same
	Failed       = "failed"        // applying it fails whenever it is tried
	Behind       = "behind"        // it waits for what is parked before it
)

// Action is what an operator decides about a parked pair.
type Action string

// The actions. Both go through the parked commands in order, and stop at one that cannot
// be applied, which stays parked with what it waits for.
const (
	// Retry applies what is parked on the pair.
	Retry Action = "retry"
	// Drop rejects one command, or all that waited when it was asked for, with the code
	// dropped; what is parked besides goes on as by a Retry.
	Drop Action = "drop"
)

// Outcome is what became of an action. The zero value: it waits for the owner.
type Outcome string

// The outcomes.
const (
	Done          Outcome = "done"           // nothing is parked on the pair any more
	Stopped       Outcome = "stopped"        // a command could not be applied: it and what is behind it wait
	NothingParked Outcome = "nothing_parked" // somebody was quicker, or one of the two left
)

// Report is what an action would do, as the owner found out by doing it in a transaction
// that it rolled back. It holds no text that a person wrote.
type Report struct {
	Steps []Step `json:"steps"`
	More  int    `json:"more"` // commands that wait behind those in Steps
}

// Step is what would become of one command, on the state that the steps before it left.
type Step struct {
	CommandID uuid.UUID `json:"commandId"`
	Type      string    `json:"type"`
	Issuer    uuid.UUID `json:"issuer"`
	Outcome   string    `json:"outcome"` // applied, the code of a rejection, duplicate, or parked: it would park again
	Error     string    `json:"error,omitempty"`
	Changes   []Change  `json:"changes"`
	Events    []string  `json:"events"`
	FollowUps []string  `json:"followUps"`
}

// Outcomes of a step that are no rejections.
const (
	StepApplied   = "applied"
	StepDuplicate = "duplicate" // it has an outcome already: Kafka held it twice
	StepParked    = "parked"
)

// Change is one fact of the state that a step changes. An empty side: there is none.
type Change struct {
	What   string `json:"what"`
	Before string `json:"before"`
	After  string `json:"after"`
}
