package contract

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed schemas/*.json
var schemaFiles embed.FS

// compiled holds the schemas ready for use, made at the first Validate: only tests,
// operators' tools and the demo validate, never the hot path, which decodes strictly.
var compiled = sync.OnceValues(compileSchemas)

// Schemas returns the JSON Schema (draft 2020-12) of each record type, by its name such
// as "request.received". They describe a record's value and only grow: what is required
// stays required, nothing more becomes so, and no field changes its type.
func Schemas() (map[string]json.RawMessage, error) {
	names, err := fs.Glob(schemaFiles, "schemas/*.json")
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	out := make(map[string]json.RawMessage, len(names))
	for _, name := range names {
		text, err := schemaFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read schema %s: %w", name, err)
		}
		out[strings.TrimSuffix(path.Base(name), ".json")] = text
	}
	return out, nil
}

// Validate holds a record's value against the schema of its type. A type without schema is
// ErrUnknown, a value that does not fit ErrMalformed. The error names places and rules,
// and may quote the value: it is for tests and operators' tools.
func Validate(recordType string, value []byte) error {
	schemas, err := compiled()
	if err != nil {
		return err
	}
	schema, ok := schemas[recordType]
	if !ok {
		return fmt.Errorf("validate %s: %w", recordType, ErrUnknown)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return fmt.Errorf("validate %s: %w: %w", recordType, ErrMalformed, err)
	}
	if err := schema.Validate(instance); err != nil {
		return fmt.Errorf("validate %s: %w: %w", recordType, ErrMalformed, err)
	}
	return nil
}

func compileSchemas() (map[string]*jsonschema.Schema, error) {
	texts, err := Schemas()
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	out := make(map[string]*jsonschema.Schema, len(texts))
	for name, text := range texts {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("read schema %s: %w", name, err)
		}
		if err := c.AddResource(name+".json", doc); err != nil {
			return nil, fmt.Errorf("add schema %s: %w", name, err)
		}
		if out[name], err = c.Compile(name + ".json"); err != nil {
			return nil, fmt.Errorf("compile schema %s: %w", name, err)
		}
	}
	return out, nil
}
