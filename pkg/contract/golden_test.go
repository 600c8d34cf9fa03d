package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/contract"
)

var update = flag.Bool("update", false, "add golden records and schema lines that are missing; never changes one")

// formatRecord and parseRecord are the golden files' form: readable, and exact to the byte.
func formatRecord(rec contract.Record) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "topic: %s\npartition: %d\nkey: %s\n", rec.Topic, rec.Partition, rec.Key)
	for _, h := range rec.Headers {
		fmt.Fprintf(&b, "%s: %s\n", h.Key, h.Value)
	}
	if rec.Value != nil { // a tombstone ends with its headers
		fmt.Fprintf(&b, "\n%s", rec.Value)
	}
	return b.Bytes()
}

func parseRecord(t *testing.T, text []byte) contract.Record {
	t.Helper()
	head, value, ok := strings.Cut(string(text), "\n\n")
	rec := contract.Record{}
	if ok {
		rec.Value = []byte(value)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(head, "\n"), "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("header %q", line)
		}
		switch key {
		case "topic":
			rec.Topic = value
		case "partition":
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			rec.Partition = n
		case "key":
			rec.Key = []byte(value)
		default:
			rec.Headers = append(rec.Headers, contract.Header{Key: key, Value: []byte(value)})
		}
	}
	return rec
}

// again decodes a record with today's code and encodes what came of it.
func again(rec contract.Record) (contract.Record, error) {
	topics := contract.NewTopics(contract.DefaultPrefix)
	switch rec.Topic {
	case topics.Commands:
		cmd, _, err := contract.DecodeCommand(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodeCommand(topics, contract.DefaultPartitions, cmd, rec.Header("traceparent"))
	case topics.Events:
		ev, err := contract.DecodeEvent(rec)
		if err != nil {
			return rec, err
		}
		if err := knowsAll(ev); err != nil {
			return rec, err
		}
		return contract.EncodeEvent(rec.Topic, rec.Partition, ev)
	case topics.Couples:
		c, err := contract.DecodeCouple(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodeCouple(rec.Topic, rec.Partition, c)
	case topics.Users:
		u, err := contract.DecodeUser(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodeUser(rec.Topic, contract.DefaultPartitions, u)
	case topics.Pushes:
		o, err := contract.DecodePushOutcome(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodePushOutcome(rec.Topic, contract.DefaultPartitions, o)
	case topics.Control:
		r, err := contract.DecodeSessionRevoked(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodeSessionRevoked(rec.Topic, contract.DefaultPartitions, r)
	case topics.Presence:
		p, err := contract.DecodePresence(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodePresence(rec.Topic, contract.DefaultPartitions, p)
	case topics.DeadLetter:
		d, err := contract.DecodeDeadLetter(rec)
		if err != nil {
			return rec, err
		}
		return contract.EncodeDeadLetter(rec.Topic, rec.Partition, d)
	default:
		return rec, fmt.Errorf("no such topic: %s", rec.Topic)
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, rec := range sample(t) {
		file := filepath.Join("testdata", "golden", name+".record")
		_, err := os.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) && *update:
			if err := os.WriteFile(file, formatRecord(rec), 0o600); err != nil {
				t.Fatal(err)
			}
		case err != nil:
			t.Errorf("%s: %v (add it with -update)", name, err)
		}
	}
	files, err := filepath.Glob("testdata/golden/*.record")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden records: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			rec := parseRecord(t, text)
			got, err := again(rec)
			if err != nil {
				t.Fatalf("today's code does not read it: %v", err)
			}
			if diff := cmp.Diff(string(text), string(formatRecord(got))); diff != "" {
				t.Errorf("encoded again it differs (-golden +got):\n%s", diff)
			}
			if rec.Value == nil {
				return
			}
			if err := contract.Validate(rec.Header("ce_type"), rec.Value); err != nil {
				t.Error(err)
			}
		})
	}
}

// knowsAll holds an event's data against what the code makes of it: encoding passes the
// data through, so a field that the code has lost would not be missed otherwise.
func knowsAll(ev contract.Event) error {
	details, err := ev.Details()
	if err != nil {
		return err
	}
	text, err := json.Marshal(details)
	if err != nil {
		return err
	}
	var was, is any
	if err := errors.Join(json.Unmarshal(ev.Data, &was), json.Unmarshal(text, &is)); err != nil {
		return err
	}
	if diff := cmp.Diff(was, is); diff != "" {
		return fmt.Errorf("the data read and written again differs (-golden +got):\n%s", diff)
	}
	return nil
}

// paths lists the fields of a JSON value as schemas name them: those of an array's elements
// with [] behind the array.
func paths(prefix string, value any, into map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			into[prefix+"."+name] = true
			paths(prefix+"."+name, field, into)
		}
	case []any:
		for _, element := range v {
			into[prefix+"[]"] = true
			paths(prefix+"[]", element, into)
		}
	}
}

// Every field that a schema names is in a golden record of its type, and the other way
// round: so a field that is removed, renamed or retyped in the code fails TestGolden, of
// whatever type it is.
func TestGoldenRecordsHaveEveryField(t *testing.T) {
	t.Parallel()
	schemas, err := contract.Schemas()
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string]map[string]bool{}
	files, err := filepath.Glob("testdata/golden/*.record")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rec := parseRecord(t, text)
		kind := rec.Header("ce_type")
		if golden[kind] == nil {
			golden[kind] = map[string]bool{}
		}
		if rec.Value == nil {
			continue
		}
		var value any
		if err := json.Unmarshal(rec.Value, &value); err != nil {
			t.Fatal(err)
		}
		paths("", value, golden[kind])
	}
	for kind, text := range schemas {
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		named := map[string]string{}
		shape(t, "", schema, named)
		for path := range named {
			if !golden[kind][path] {
				t.Errorf("%s: no golden record has the field %s", kind, path)
			}
		}
		for path := range golden[kind] {
			if strings.HasPrefix(path, ".profile.theme.entries.") {
				continue // named by their user
			}
			if _, ok := named[path]; !ok {
				t.Errorf("%s: the schema does not name the field %s", kind, path)
			}
		}
	}
}
