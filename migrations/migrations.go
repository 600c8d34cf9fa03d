// Package migrations holds the numbered schema changes, embedded in the binary so that a
// deployment cannot meet a schema that it does not know how to build. They expand first
// and contract in a later release: the binary before and the one after both work on the
// schema between them.
//
// What is in always is run after them, each time: it says what the program's role may do
// on the tables that there are by now.
package migrations

import "embed"

// FS holds the SQL files, in goose's format, at its root, and what is always run in
// the directory always, one statement a file.
//
//go:embed *.sql always/*.sql
var FS embed.FS
