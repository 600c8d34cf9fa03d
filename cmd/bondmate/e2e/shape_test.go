package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// misfit says where a JSON text does not have a shape, or nothing. A shape is JSON: an
// object names the members that must be there ("name?" if they may be), an array holds the
// shape of every element, a string names a kind or, after "=", the value itself. Members
// that the shape does not name are allowed: answers may grow.
func misfit(shape string, text []byte) string {
	var want, got any
	if err := json.Unmarshal([]byte(shape), &want); err != nil {
		return fmt.Sprintf("shape %s: %v", shape, err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		return err.Error()
	}
	return misfitAt("", want, got)
}

func misfitAt(at string, want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is no object: %v", at, got)
		}
		for name, shape := range want {
			name, optional := strings.CutSuffix(name, "?")
			value, ok := object[name]
			if !ok && !optional {
				return fmt.Sprintf("%s/%s is missing in %v", at, name, object)
			}
			if ok {
				if wrong := misfitAt(at+"/"+name, shape, value); wrong != "" {
					return wrong
				}
			}
		}
		return ""
	case []any:
		list, ok := got.([]any)
		if !ok {
			return fmt.Sprintf("%s is no list: %v", at, got)
		}
		for i, value := range list {
			if wrong := misfitAt(fmt.Sprintf("%s/%d", at, i), want[0], value); wrong != "" {
				return wrong
			}
		}
		return ""
	case string:
		if slices.ContainsFunc(strings.Split(want, "|"), func(kind string) bool { return isKind(kind, got) }) {
			return ""
		}
		return fmt.Sprintf("%s is no %s: %v", at, want, got)
	}
	return fmt.Sprintf("%s: a shape cannot be %v", at, want)
}

func isKind(kind string, v any) bool {
	if literal, ok := strings.CutPrefix(kind, "="); ok {
		return fmt.Sprint(v) == literal
	}
	text, isText := v.(string)
	switch kind {
	case "uuid":
		return isText && len(text) == 36 && uuid.Validate(text) == nil
	case "time":
		at, err := time.Parse(time.RFC3339Nano, text)
		return err == nil && at.Location() == time.UTC && strings.HasSuffix(text, "Z")
	case "text":
		return isText && text != ""
	case "number":
		_, ok := v.(float64)
		return ok
	case "int":
		n, ok := v.(float64)
		return ok && n == float64(int64(n))
	case "bool":
		_, ok := v.(bool)
		return ok
	case "null":
		return v == nil
	}
	return false
}

func TestMisfit(t *testing.T) {
	t.Parallel()
	const shape = `{"id":"uuid","at?":"time","n":"int|null","list":[{"kind":"=a|=b"}]}`
	for text, fits := range map[string]bool{
		`{"id":"6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11","n":1,"list":[],"more":1}`:                         true,
		`{"id":"6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11","n":null,"list":[{"kind":"b"}]}`:                   true,
		`{"id":"6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11","n":null,"list":[{"kind":"c"}]}`:                   false,
		`{"id":"6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11","n":1.5,"list":[]}`:                                false,
		`{"id":"6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11","n":1,"list":[],"at":"2026-01-02T03:04:05+01:00"}`: false,
		`{"id":"6b0d7f0a-31a5-4f6e-9d0c-0e6b7f6d2a11","n":1,"list":[],"at":"2026-01-02T03:04:05Z"}`:      true,
		`{"id":"x","n":1,"list":[]}`: false,
		`{"n":1,"list":[]}`:          false,
		`[]`:                         false,
	} {
		if wrong := misfit(shape, []byte(text)); (wrong == "") != fits {
			t.Errorf("%s: %q", text, wrong)
		}
	}
}
