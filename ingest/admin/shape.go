package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
)

// Shape is what can be told of a command's record without telling what anybody wrote.
type Shape struct {
	Type     string // empty when not even the envelope can be read
	Version  int
	Issuer   uuid.UUID
	Bytes    int
	Fields   []string // name, and kind and size of the value; ids as they are
	Readable string   // yes, or today's decoder's complaint
}

const readable = "yes"

func shapeOf(key, value []byte) Shape {
	env, err := decoded(key, value)
	s := Shape{Type: env.Type, Version: env.Version, Issuer: env.Issuer, Bytes: len(value), Readable: readable}
	if err != nil {
		s.Readable = err.Error()
		if !errors.Is(err, contract.ErrUnknown) {
			s.Type = "" // it might be anything
		}
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil {
		return s
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		s.Fields = append(s.Fields, fmt.Sprintf("%s: %s", name, kindOf(fields[name])))
	}
	return s
}

// kindOf describes a value. An id tells nothing of a person but who it is, and operators
// need it; everything else of a person's is a text.
func kindOf(value json.RawMessage) string {
	var v any
	if json.Unmarshal(value, &v) != nil {
		return "unreadable"
	}
	switch v := v.(type) {
	case string:
		if id, err := uuid.Parse(v); err == nil && len(v) == len(id.String()) {
			return v
		}
		return fmt.Sprintf("text of %d characters", utf8.RuneCountInString(v))
	case bool:
		return fmt.Sprint(v)
	case float64:
		return "number"
	case []any:
		return fmt.Sprintf("list of %d", len(v))
	case map[string]any:
		return fmt.Sprintf("object of %d fields", len(v))
	default:
		return "null"
	}
}
