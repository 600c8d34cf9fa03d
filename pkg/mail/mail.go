// Package mail sends short plain-text mails: over SMTP, or, where no server is configured,
// into a file.
//
// A Send that returned nil was taken over by the server (or is in the file); whether it
// reaches anybody is the servers' business. It ends with its context, whatever the server
// does. Nothing is kept or started between two of them: who sends owns queue and retries.
//
// It is the only importer of the mail library.
package mail

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Message is one mail to one person.
type Message struct {
	To      string // a bare address
	Subject string
	Text    string
}

// FileName is the file of a File within DATA_DIR.
const FileName = "mails.jsonl"

// File takes mails in the place of a server: it appends them to a file, lines of
// {time, to, subject, text}. The file holds links that are credentials, so its owner alone
// may read it. It is safe for concurrent use.
type File struct {
	path  string
	clock func() time.Time
	mu    sync.Mutex // a line at a time
}

// NewFile returns a File that appends to path, which need not exist.
func NewFile(path string, clock func() time.Time) *File { return &File{path: path, clock: clock} }

type line struct {
	Time    time.Time `json:"time"`
	To      string    `json:"to"`
	Subject string    `json:"subject"`
	Text    string    `json:"text"`
}

// Send appends a mail.
func (f *File) Send(_ context.Context, m Message) error {
	text, err := json.Marshal(line{Time: f.clock().UTC(), To: m.To, Subject: m.Subject, Text: m.Text})
	if err != nil {
		return fmt.Errorf("encode mail: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("keep mail: %w", err)
	}
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep mail: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("keep mail: %w", err)
	}
	return nil
}
