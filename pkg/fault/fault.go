// Package fault classifies errors by what the caller can do about them.
//
// Code deep inside a role returns a *fault.Error for what a user or an operator
// can understand, wrapped with what was being done; everything else is internal
// and its text is never shown outside. Each edge maps kinds in one place: HTTP
// status and problem documents in ingest, commit, retry or dead letter in pkg/bus,
// parking in processor.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what went wrong, from the caller's point of view.
type Kind uint8

// The kinds. Internal is the zero value: an unknown error is never shown.
const (
	Internal Kind = iota
	Invalid
	Unauthenticated
	Forbidden
	NotFound
	Conflict
	Limited
	Unavailable
)

// Field points at one invalid place of a request.
type Field struct {
	Pointer string `json:"pointer"` // JSON pointer into the body, or the parameter's name
	Code    string `json:"code"`    // stable, snake_case
	Detail  string `json:"detail"`  // for people
}

// Error is an error with a stable code that may be shown to the caller.
type Error struct {
	Kind   Kind
	Code   string // stable, snake_case; part of the public contract
	Detail string // for people; holds no secret and no text of another user
	Fields []Field
	// RetryAfter is set when trying again later can help. Zero means unset.
	RetryAfter time.Duration
	// Cause is for operators: it is logged, never shown.
	Cause error
}

// New returns an error of a kind with its stable code and a detail for people.
func New(kind Kind, code, detail string) *Error {
	return &Error{Kind: kind, Code: code, Detail: detail}
}

// Wrap is New with the cause for operators.
func Wrap(cause error, kind Kind, code, detail string) *Error {
	return &Error{Kind: kind, Code: code, Detail: detail, Cause: cause}
}

// Error implements error; it is for logs.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf returns the kind of the first *Error in err's chain, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// CodeOf returns the code of the first *Error in err's chain, or "internal".
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return "internal"
}
