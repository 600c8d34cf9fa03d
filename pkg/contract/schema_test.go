package contract_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

func TestEveryTypeHasASchema(t *testing.T) {
	t.Parallel()
	schemas, err := contract.Schemas()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{contract.DeadLetterType, contract.CoupleType, contract.UserType, contract.PushOutcomeType, contract.SessionRevokedType, contract.PresenceType}
	for _, c := range partner.CommandTypes() {
		want = append(want, c.String())
	}
	for _, e := range partner.EventTypes() {
		want = append(want, e.String())
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(schemas)); !slices.Equal(got, want) {
		t.Errorf("schemas of %v\nwant %v", got, want)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	records := sample(t)
	for name, rec := range records {
		if rec.Value == nil {
			continue
		}
		if err := contract.Validate(rec.Header("ce_type"), rec.Value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	received := records["event-request.received"]
	if err := contract.Validate("request.unheard", received.Value); !errors.Is(err, contract.ErrUnknown) {
		t.Errorf("unknown type: %v", err)
	}
	for name, edit := range map[string][2]string{
		"not JSON":             {`{"eventId"`, `{eventId`},
		"required field gone":  {`"fromUserId"`, `"by"`},
		"of another JSON type": {`"seq":2,`, `"seq":"2",`},
		"not a time":           {`"expiresAt":"2026-03`, `"expiresAt":"2026-33`},
		"not a UUID":           {`"requestId":"`, `"requestId":"x`},
		"of another type":      {`"request.received"`, `"request.sent"`},
	} {
		if err := contract.Validate("request.received", edited(t, received, edit[0], edit[1]).Value); !errors.Is(err, contract.ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
	}
}

// shape flattens a schema to one line a field: its path, its type and whether it must be there.
func shape(t *testing.T, path string, schema map[string]any, lines map[string]string) {
	t.Helper()
	required, _ := schema["required"].([]any)
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		field, ok := p.(map[string]any)
		if !ok {
			t.Fatalf("%s.%s is no schema", path, name)
		}
		what := fmt.Sprint(field["type"])
		if c, ok := field["const"]; ok {
			what += fmt.Sprintf("=%v", c)
		}
		if slices.Contains(required, any(name)) {
			what += " required"
		}
		lines[path+"."+name] = what
		shape(t, path+"."+name, field, lines)
		if items, ok := field["items"].(map[string]any); ok {
			lines[path+"."+name+"[]"] = fmt.Sprint(items["type"])
			shape(t, path+"."+name+"[]", items, lines)
		}
	}
}

// shrunk compares the shape of the schemas with that of before: a field must not go, nor
// change its type, nor become required or cease to be. It returns what did and what is new.
func shrunk(before, now map[string]string) (faults, added []string) {
	for path, what := range before {
		if now[path] != what {
			faults = append(faults, fmt.Sprintf("%s was %q, is %q", path, what, now[path]))
		}
	}
	for path, what := range now {
		if _, ok := before[path]; ok {
			continue
		}
		kind, _, _ := strings.Cut(path, "#")
		known := slices.ContainsFunc(slices.Collect(maps.Keys(before)), func(p string) bool { return strings.HasPrefix(p, kind+"#") })
		parent := path[:max(strings.LastIndex(path, "."), 0)]
		_, parentBefore := before[parent]
		if known && strings.HasSuffix(what, " required") && (parentBefore || !strings.Contains(parent, ".")) {
			faults = append(faults, fmt.Sprintf("%s is new and required: older records lack it", path))
		}
		added = append(added, path+" "+what)
	}
	slices.Sort(faults)
	slices.Sort(added)
	return faults, added
}

func TestSchemasOnlyGrow(t *testing.T) {
	t.Parallel()
	const file = "testdata/schema.shape"
	schemas, err := contract.Schemas()
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]string{}
	for name, text := range schemas {
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		if schema["additionalProperties"] != nil {
			t.Errorf("%s limits additional fields: then nothing could ever be added", name)
		}
		shape(t, name+"#", schema, now)
	}
	before := map[string]string{}
	text, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		path, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		before[path] = what
	}
	faults, added := shrunk(before, now)
	for _, f := range faults {
		t.Error(f)
	}
	if len(added) == 0 {
		return
	}
	if !*update {
		t.Fatalf("not in %s yet (add with -update): %v", file, added)
	}
	for path, what := range before {
		added = append(added, path+" "+what)
	}
	slices.Sort(added)
	if err := os.WriteFile(file, []byte(strings.Join(added, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestShrunkFindsWhatIsForbidden(t *testing.T) {
	t.Parallel()
	before := map[string]string{"a#.id": "string required", "a#.n": "integer", "a#.data": "object required", "a#.data.x": "string"}
	tests := map[string]struct {
		edit   func(map[string]string)
		faults int
	}{
		"nothing":                     {func(map[string]string) {}, 0},
		"an optional field more":      {func(m map[string]string) { m["a#.new"] = "string" }, 0},
		"a type more":                 {func(m map[string]string) { m["b#.id"] = "string required" }, 0},
		"an optional object more":     {func(m map[string]string) { m["a#.o"] = "object"; m["a#.o.x"] = "string required" }, 0},
		"a field gone":                {func(m map[string]string) { delete(m, "a#.n") }, 1},
		"another type":                {func(m map[string]string) { m["a#.n"] = "string" }, 1},
		"no longer required":          {func(m map[string]string) { m["a#.id"] = "string" }, 1},
		"newly required":              {func(m map[string]string) { m["a#.n"] = "integer required" }, 1},
		"a required field more":       {func(m map[string]string) { m["a#.new"] = "string required" }, 1},
		"a required field more below": {func(m map[string]string) { m["a#.data.new"] = "string required" }, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := maps.Clone(before)
			tt.edit(now)
			if faults, _ := shrunk(before, now); len(faults) != tt.faults {
				t.Errorf("faults %v, want %d", faults, tt.faults)
			}
		})
	}
}
