package bus

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/bondmate/backend/pkg/contract"
)

// ACL is one entry of the brokers' list of rights.
type ACL struct {
	Principal string // type and name, such as "User:bondmate-ingest"; the name "*" is everybody
	Host      string // from which it holds; "*" for any
	Resource  Resource
	Name      string // "*" is all of the kind unless Prefixed
	Prefixed  bool   // all whose names begin with Name
	Operation Operation
	Deny      bool // wins over every entry that allows
}

// Resource is a kind of thing that rights are about, Operation what may be done with it.
// Both are in kafka-go's words; kinds and operations that it does not know are "Unknown".
type (
	Resource  string
	Operation string
)

// The kinds of resources that the roles deal with. There is one cluster, named clusterName.
const (
	TopicResource   Resource = "Topic"
	GroupResource   Resource = "Group"
	ClusterResource Resource = "Cluster"

	clusterName = "kafka-cluster"
)

// The operations that are asked for. The brokers take Read and Write to include Describe,
// and AlterConfigs to include DescribeConfigs.
const (
	All          Operation = "All"
	Read         Operation = "Read"
	Write        Operation = "Write"
	Create       Operation = "Create"
	Describe     Operation = "Describe"
	AlterConfigs Operation = "AlterConfigs"

	unknown = "Unknown"
)

const everything = "*"

// String describes the entry for operators.
func (a ACL) String() string {
	verb, name, from := "may", a.Name, ""
	if a.Deny {
		verb = "must not"
	}
	if a.Prefixed {
		name += "…"
	}
	if a.Host != everything {
		from = " from " + a.Host
	}
	return fmt.Sprintf("%s %s %s %s %s%s", a.Principal, verb, a.Operation, strings.ToLower(string(a.Resource)), name, from)
}

// Rights says which principals stand for the parties of one installation.
type Rights struct {
	Prefix     string // of topics and groups
	Principals map[contract.Party][]string
}

// DefaultPrincipal is the principal of a party unless configured.
func DefaultPrincipal(prefix string, party contract.Party) string {
	return fmt.Sprintf("User:%s-%s", prefix, party)
}

// Errors of rights that make no sense.
var (
	ErrPrincipal = errors.New("a principal is a type and a name, such as User:ingest, and not everybody")
	// ErrBarred says that one principal stands for a party that a topic is closed to and for
	// one that needs it.
	ErrBarred = errors.New("one principal cannot be both")
)

// ACLs returns the entries that let each principal do what the program does on its behalf,
// and nothing else, sorted. They follow from contract's table of edges and from what this
// package asks of the brokers:
//
//   - Write: a Client that appends needs Write on the topic, which includes what it asks
//     for beside it, the topic's leaders and ends (Describe). It is not idempotent and
//     uses no transactions, so it needs nothing on the cluster.
//   - PartitionReader, Tail: Read on the topic.
//   - RunGroup: Read on the group as well, which includes finding its coordinator.
//   - PlanTopics: Describe and DescribeConfigs on the topics; EnsureTopics Create and
//     AlterConfigs. Create on a topic's name is enough to create it.
//   - PlanACLs: Describe on the cluster.
//
// Nobody gets Alter on the cluster, which EnsureACLs needs: whoever may grant rights has all
// of them, so that is for the cluster's own administrators.
func (r Rights) ACLs() ([]ACL, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var acls []ACL
	add := func(parties []contract.Party, entry ACL) {
		for _, party := range parties {
			for _, principal := range r.Principals[party] {
				entry.Principal, entry.Host = principal, everything
				acls = append(acls, entry)
			}
		}
	}
	operator := []contract.Party{contract.Operator}
	for _, edge := range contract.NewTopics(r.Prefix).Edges() {
		on := func(op Operation) ACL { return ACL{Resource: TopicResource, Name: edge.Topic, Operation: op} }
		add(edge.Writers, on(Write))
		add(edge.Readers, on(Read))
		for _, op := range []Operation{Create, Describe, AlterConfigs} {
			add(operator, on(op))
		}
		barred := on(All)
		barred.Deny = true
		add(edge.Barred, barred)
	}
	for _, m := range contract.NewGroups(r.Prefix).Memberships() {
		add([]contract.Party{m.Member}, ACL{Resource: GroupResource, Name: m.Group, Prefixed: m.Prefixed, Operation: Read})
	}
	add(operator, ACL{Resource: ClusterResource, Name: clusterName, Operation: Describe})
	sortACLs(acls)
	return slices.Compact(acls), nil
}

func (r Rights) check() error {
	parties := map[string][]contract.Party{}
	for _, party := range contract.Parties() {
		for _, principal := range r.Principals[party] {
			kind, name, ok := strings.Cut(principal, ":")
			if !ok || kind == "" || name == "" || name == everything {
				return fmt.Errorf("%s: %q: %w", party, principal, ErrPrincipal)
			}
			parties[principal] = append(parties[principal], party)
		}
	}
	for _, edge := range contract.NewTopics(r.Prefix).Edges() {
		needed := slices.Concat(edge.Writers, edge.Readers, []contract.Party{contract.Operator})
		for _, barred := range edge.Barred {
			for _, principal := range r.Principals[barred] {
				for _, party := range parties[principal] {
					if slices.Contains(needed, party) {
						return fmt.Errorf("%s is %s, who needs %s, and %s, to whom it is closed: %w", principal, party, edge.Topic, barred, ErrBarred)
					}
				}
			}
		}
	}
	return nil
}

// all returns the principals, each once, sorted.
func (r Rights) all() []string {
	var all []string
	for _, principals := range r.Principals {
		all = append(all, principals...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func sortACLs(acls []ACL) {
	slices.SortFunc(acls, func(a, b ACL) int {
		return cmp.Or(cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.String(), b.String()))
	})
}

// RightsPlan is how the brokers' list differs from what is wanted.
type RightsPlan struct {
	Missing []ACL
	// Superfluous are further entries of our principals on our topics and groups, such
	// as those of an older program, or one that denies. EnsureACLs takes them away if asked to.
	Superfluous []ACL
	// Wider are entries that reach our topics, groups or principals and more than these: of everybody, of
	// all topics, of the cluster. They may be meant for others, so they are shown, not touched.
	Wider []ACL
}

// AsWanted says whether nothing is missing or superfluous.
func (p RightsPlan) AsWanted() bool { return len(p.Missing)+len(p.Superfluous) == 0 }

// compare sorts what the brokers have for our principals and for everybody.
func (r Rights) compare(want, have []ACL) RightsPlan {
	var plan RightsPlan
	listed := map[ACL]bool{}
	for _, a := range have {
		listed[a] = true
	}
	wanted := map[ACL]bool{}
	for _, a := range want {
		wanted[a] = true
		if !listed[a] {
			plan.Missing = append(plan.Missing, a)
		}
	}
	ours := newScope(r)
	for a := range listed {
		switch {
		case wanted[a]:
		case ours.holds(a):
			plan.Superfluous = append(plan.Superfluous, a)
		case ours.reachedBy(a):
			plan.Wider = append(plan.Wider, a)
		}
	}
	sortACLs(plan.Superfluous)
	sortACLs(plan.Wider)
	return plan
}

// scope is what belongs to one installation and to nobody else.
type scope struct {
	principals []string
	names      map[Resource][]string // of today's topics and groups
	literal    map[Resource]*regexp.Regexp
	within     map[Resource]string // how all names begin
}

func newScope(r Rights) scope {
	s := scope{principals: r.all(), names: map[Resource][]string{}}
	for _, edge := range contract.NewTopics(r.Prefix).Edges() {
		s.names[TopicResource] = append(s.names[TopicResource], edge.Topic)
	}
	for _, m := range contract.NewGroups(r.Prefix).Memberships() {
		s.names[GroupResource] = append(s.names[GroupResource], m.Group)
	}
	s.within = map[Resource]string{TopicResource: r.Prefix + ".", GroupResource: r.Prefix + "-"}
	// Names that this installation has, had or will have. A longer prefix is another one's:
	// bondmate.test.commands.v1 is not bondmate's.
	var parties []string
	for _, p := range contract.Parties() {
		parties = append(parties, string(p))
	}
	prefix := regexp.QuoteMeta(r.Prefix)
	s.literal = map[Resource]*regexp.Regexp{
		TopicResource: regexp.MustCompile(`^` + prefix + `\.[a-z]+\.v[0-9]+$`),
		GroupResource: regexp.MustCompile(`^` + prefix + `-(` + strings.Join(parties, "|") + `)`),
	}
	return s
}

// holds says whether an entry is about our principals, topics and groups alone.
func (s scope) holds(a ACL) bool {
	if !slices.Contains(s.principals, a.Principal) || a.Operation == unknown {
		return false
	}
	name, ok := s.literal[a.Resource]
	switch {
	case !ok:
		return false
	case a.Prefixed:
		return strings.HasPrefix(a.Name, s.within[a.Resource]) && s.covers(a)
	default:
		return name.MatchString(a.Name)
	}
}

// reachedBy says whether an entry changes what somebody may do with our topics and groups or
// with the cluster. It is one of our principals' or everybody's.
func (s scope) reachedBy(a ACL) bool { return a.Resource == ClusterResource || s.covers(a) }

// covers says whether an entry applies to one of our topics or groups.
func (s scope) covers(a ACL) bool {
	return slices.ContainsFunc(s.names[a.Resource], func(name string) bool {
		if a.Prefixed {
			return strings.HasPrefix(name, a.Name)
		}
		return a.Name == name || a.Name == everything
	})
}
