package bus_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/contract"
)

func defaultRights(prefix string) bus.Rights {
	r := bus.Rights{Prefix: prefix, Principals: map[contract.Party][]string{}}
	for _, party := range contract.Parties() {
		r.Principals[party] = []string{bus.DefaultPrincipal(prefix, party)}
	}
	return r
}

// The handbook's table of who may do what on Kafka is what the plan grants.
func TestRightsAreInTheHandbook(t *testing.T) {
	t.Parallel()
	acls, err := defaultRights(contract.DefaultPrefix).ACLs()
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"| principal | topics | groups | cluster |", "|---|---|---|---|"}
	for _, party := range contract.Parties() {
		principal := bus.DefaultPrincipal(contract.DefaultPrefix, party)
		cells := map[bus.Resource]string{}
		for _, kind := range []bus.Resource{bus.TopicResource, bus.GroupResource, bus.ClusterResource} {
			cells[kind] = cell(acls, principal, kind)
		}
		lines = append(lines, fmt.Sprintf("| `%s` | %s | %s | %s |", principal,
			cells[bus.TopicResource], cells[bus.GroupResource], cells[bus.ClusterResource]))
	}
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if table := strings.Join(lines, "\n") + "\n"; !strings.Contains(string(text), "\n"+table) {
		t.Errorf("docs/operations.md lacks the table\n%s", table)
	}
}

// cell lists what a principal may do with resources of a kind: each operation with the
// names to which it applies.
func cell(acls []bus.ACL, principal string, kind bus.Resource) string {
	by := map[string][]string{}
	for _, a := range acls {
		if a.Principal != principal || a.Resource != kind {
			continue
		}
		op, name := string(a.Operation), "`"+strings.TrimSuffix(strings.TrimPrefix(a.Name, contract.DefaultPrefix+"."), ".v1")+"`"
		if a.Deny {
			op = "**denied** " + op
		}
		if a.Prefixed {
			name += "…"
		}
		by[op] = append(by[op], name)
	}
	var parts []string
	for _, op := range []string{"Write", "Read", "Create", "Describe", "AlterConfigs", "**denied** All"} {
		if by[op] == nil {
			continue
		}
		names := " " + strings.Join(by[op], ", ")
		switch {
		case kind == bus.ClusterResource:
			names = ""
		case kind == bus.TopicResource && len(by[op]) == len(contract.NewTopics("").Edges()):
			names = " all"
		}
		parts = append(parts, op+names)
		delete(by, op)
	}
	for op := range by {
		parts = append(parts, "not expected here: "+op)
	}
	return strings.Join(parts, "; ")
}

func TestRights(t *testing.T) {
	t.Parallel()
	topics := contract.NewTopics("p")
	grants := func(r bus.Rights, principal string) (out []string) {
		acls, err := r.ACLs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range acls {
			if a.Principal == principal {
				out = append(out, strings.TrimPrefix(a.String(), principal+" "))
			}
		}
		return out
	}
	t.Run("one principal for several", func(t *testing.T) {
		r := defaultRights("p")
		r.Principals[contract.Ingest] = []string{"User:all"}
		r.Principals[contract.Realtime] = []string{"User:all"}
		want := []string{
			"may Write topic " + topics.Commands, "may Read topic " + topics.Control, "may Write topic " + topics.Control, "may Read topic " + topics.Events,
			"may Read topic " + topics.Presence, "may Write topic " + topics.Presence,
		}
		if diff := cmp.Diff(want, grants(r, "User:all")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("several principals for one", func(t *testing.T) {
		r := defaultRights("p")
		r.Principals[contract.Analyst] = []string{"User:ana", "User:CN=ben,O=bond=mate"}
		if a, b := grants(r, "User:ana"), grants(r, "User:CN=ben,O=bond=mate"); len(a) == 0 || cmp.Diff(a, b) != "" {
			t.Errorf("%v and %v", a, b)
		}
	})
	for name, test := range map[string]struct {
		principals map[contract.Party][]string
		want       error
	}{
		"everybody":                {map[contract.Party][]string{contract.Analyst: {"User:*"}}, bus.ErrPrincipal},
		"no type":                  {map[contract.Party][]string{contract.Ingest: {"ingest"}}, bus.ErrPrincipal},
		"no name":                  {map[contract.Party][]string{contract.Ingest: {"User:"}}, bus.ErrPrincipal},
		"nothing":                  {map[contract.Party][]string{contract.Ingest: {""}}, bus.ErrPrincipal},
		"analyst and processor":    {map[contract.Party][]string{contract.Analyst: {"User:a"}, contract.Processor: {"User:a"}}, bus.ErrBarred},
		"analyst and operator":     {map[contract.Party][]string{contract.Analyst: {"User:a", "User:b"}, contract.Operator: {"User:b"}}, bus.ErrBarred},
		"analyst and notifier":     {map[contract.Party][]string{contract.Analyst: {"User:a"}, contract.Notifier: {"User:a"}}, nil},
		"all but the analysts one": {map[contract.Party][]string{contract.Ingest: {"User:a"}, contract.Processor: {"User:a"}, contract.Operator: {"User:a"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := (bus.Rights{Prefix: "p", Principals: test.principals}).ACLs(); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}
