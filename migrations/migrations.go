// Package migrations holds the numbered schema changes, embedded in the binary so that a
// deployment cannot meet a schema that it does not know how to build. They expand first
// and contract in a later release: the binary before and the one after both work on the
// schema between them.
package migrations

import "embed"

// FS holds the SQL files, in goose's format, at its root.
//
//go:embed *.sql
var FS embed.FS
