package contract_test

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/bondmate/backend/pkg/contract"
)

// The vectors come from the Java client; the README beside them says how.
func TestPartitionOfEqualsJavaClient(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/partition/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Key        string
		Partitions map[string]int
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 50 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		for count, want := range v.Partitions {
			n, err := strconv.Atoi(count)
			if err != nil {
				t.Fatal(err)
			}
			if got := contract.PartitionOf([]byte(v.Key), n); got != want {
				t.Errorf("%q among %d is on %d, the Java client says %d", v.Key, n, got, want)
			}
		}
	}
}
