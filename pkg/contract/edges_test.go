package contract_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/contract"
)

// Every topic has its row in the table of edges and its specification, each once.
func TestEveryTopicHasItsEdge(t *testing.T) {
	t.Parallel()
	topics := contract.NewTopics("p")
	var want, edges, specs []string
	for _, name := range reflect.ValueOf(topics).Fields() {
		want = append(want, name.String())
	}
	for _, e := range topics.Edges() {
		edges = append(edges, e.Topic)
		if len(e.Writers) == 0 || len(e.Readers) == 0 {
			t.Errorf("%s: written by %v, read by %v", e.Topic, e.Writers, e.Readers)
		}
		for _, party := range e.Barred {
			if slices.Contains(e.Writers, party) || slices.Contains(e.Readers, party) {
				t.Errorf("%s: %s is barred and is not", e.Topic, party)
			}
		}
		for _, party := range slices.Concat(e.Writers, e.Readers, e.Barred) {
			if !slices.Contains(contract.Parties(), party) {
				t.Errorf("%s: %q is no party", e.Topic, party)
			}
		}
	}
	for _, s := range topics.Specs(1) {
		specs = append(specs, s.Name)
	}
	for _, names := range [][]string{want, edges, specs} {
		slices.Sort(names)
	}
	if diff := cmp.Diff(want, edges); diff != "" {
		t.Errorf("topics of the table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, specs); diff != "" {
		t.Errorf("topics with a specification (-want +got):\n%s", diff)
	}
}

// What people write to each other, and when they are at their phones, is on topics that
// analysts do not read, and those are closed to them for good; dead letters they do not get
// either.
func TestAnalystsReadWhatHoldsNoTexts(t *testing.T) {
	t.Parallel()
	topics := contract.NewTopics("p")
	open := []string{topics.Events, topics.Couples, topics.Users, topics.Pushes}
	for _, e := range topics.Edges() {
		if slices.Contains(e.Writers, contract.Analyst) {
			t.Errorf("analysts write %s", e.Topic)
		}
		if got, want := slices.Contains(e.Readers, contract.Analyst), slices.Contains(open, e.Topic); got != want {
			t.Errorf("analysts read %s: %v, want %v", e.Topic, got, want)
		}
		if got, want := slices.Contains(e.Barred, contract.Analyst), slices.Contains([]string{topics.Commands, topics.Presence}, e.Topic); got != want {
			t.Errorf("analysts are barred from %s: %v, want %v", e.Topic, got, want)
		}
	}
}
