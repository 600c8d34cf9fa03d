package contract_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/contract"
)

// TestStructured: no attribute of the binary mode is lost in a file, and the data is the same.
func TestStructured(t *testing.T) {
	t.Parallel()
	rec := contract.Record{
		Topic: "t", Partition: 7, Value: []byte(`{"eventId":"e","seq":12}`),
		Headers: []contract.Header{{Key: "content-type", Value: []byte("application/json")}, {Key: "traceparent", Value: []byte("00-t")}},
	}
	want := map[string]any{
		"datacontenttype": "application/json", "traceparent": "00-t", "partition": 7.0, "data": map[string]any{"eventId": "e", "seq": 12.0},
	}
	for _, name := range []string{"specversion", "id", "source", "type", "time", "subject", "pair", "commandid", "seq", "epoch"} {
		rec.Headers = append(rec.Headers, contract.Header{Key: "ce_" + name, Value: []byte("the " + name)})
		want[name] = "the " + name
	}
	line, err := contract.Structured(rec)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
