package bus_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// guarded is a broker with an authorizer, a login for each party and the rights of none yet.
type guarded struct {
	kafkatest.Guarded
	prefix string
	topics contract.Topics
	admin  *bus.Client
	rights bus.Rights
}

// stranger can log in and is no party.
const stranger = "stranger"

// bothGuarded runs a test on the embedded broker and on Apache Kafka, both with authorizers.
func bothGuarded(t *testing.T, test func(t *testing.T, g guarded)) {
	t.Helper()
	for name, start := range map[string]func(testing.TB, ...string) kafkatest.Guarded{
		"embedded": kafkatest.EmbeddedGuarded, "apache": kafkatest.ApacheGuarded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := guarded{prefix: kafkatest.Prefix(t), rights: bus.Rights{Principals: map[contract.Party][]string{}}}
			users := []string{stranger}
			for _, party := range contract.Parties() {
				users = append(users, string(party))
				g.rights.Principals[party] = []string{"User:" + string(party)}
			}
			g.Guarded, g.topics, g.rights.Prefix = start(t, users...), contract.NewTopics(g.prefix), g.prefix
			g.admin = g.client(t, kafkatest.Administrator)
			test(t, g)
		})
	}
}

func (g guarded) client(t *testing.T, user string) *bus.Client {
	t.Helper()
	return through(t, g.Broker, g.As(user))
}

// grant applies the plan.
func (g guarded) grant(t *testing.T, prune bool) bus.RightsPlan {
	t.Helper()
	found, err := g.admin.EnsureACLs(within(t, 30*time.Second), g.rights, prune)
	if err != nil {
		t.Fatalf("grant rights: %v", err)
	}
	return found
}

// ask sends a request that a user's own tool would send.
func (g guarded) ask(t *testing.T, user string, req kmsg.Request) kmsg.Response {
	t.Helper()
	return ask(t, g.Broker, g.As(user), req)
}

// The plan grants what is missing, once, and takes away what is superfluous when it is told
// to, but nothing of anybody else.
func TestRightsArePlannedAndSetUp(t *testing.T) {
	t.Parallel()
	bothGuarded(t, func(t *testing.T, g guarded) {
		ctx := within(t, 90*time.Second)
		want, err := g.rights.ACLs()
		if err != nil {
			t.Fatal(err)
		}
		plan := func() bus.RightsPlan {
			t.Helper()
			p, err := g.admin.PlanACLs(ctx, g.rights)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		if diff := cmp.Diff(bus.RightsPlan{Missing: want}, plan()); diff != "" {
			t.Errorf("plan without any rights (-want +got):\n%s", diff)
		}
		for user, refusal := range map[string]error{string(contract.Operator): bus.ErrMayNotPlan, stranger: bus.ErrMayNotPlan} {
			c := g.client(t, user)
			if _, err := c.PlanACLs(ctx, g.rights); !errors.Is(err, refusal) || bus.Retriable(err) {
				t.Errorf("plan of %s: %v, want %v for good", user, err, refusal)
			}
			if _, err := c.EnsureACLs(ctx, g.rights, true); !errors.Is(err, refusal) {
				t.Errorf("grant by %s: %v, want %v", user, err, refusal)
			}
		}
		if diff := cmp.Diff(bus.RightsPlan{Missing: want}, g.grant(t, false)); diff != "" {
			t.Errorf("granted (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(bus.RightsPlan{}, g.grant(t, true)); diff != "" {
			t.Errorf("granted by a second run (-want +got):\n%s", diff)
		}

		allow := func(principal, name string, op bus.Operation) bus.ACL {
			return bus.ACL{Principal: principal, Host: "*", Resource: bus.TopicResource, Name: name, Operation: op}
		}
		analyst := "User:" + string(contract.Analyst)
		prefixed := allow(analyst, g.prefix+".", bus.Read)
		prefixed.Prefixed = true
		denied := allow("User:"+string(contract.Processor), g.topics.Commands, bus.Read)
		denied.Deny = true
		here := allow(analyst, g.topics.DeadLetter, bus.Read)
		here.Host = "10.1.2.3"
		superfluous := []bus.ACL{allow(analyst, g.topics.DeadLetter, bus.Read), here, prefixed, allow(analyst, g.prefix+".retired.v1", bus.Read), denied}
		wider := []bus.ACL{allow("User:*", g.topics.Users, bus.Read), allow(analyst, "*", bus.Read)}
		others := []bus.ACL{
			allow("User:"+stranger, g.topics.Events, bus.Read), allow(analyst, "elsewhere.v1", bus.Read),
			allow(analyst, g.prefix+".test.commands.v1", bus.Read), // of the installation with that prefix
			allow("User:*", "elsewhere.v1", bus.Read),
		}
		g.add(t, slices.Concat(superfluous, wider, others)...)
		all := len(want) + len(superfluous) + len(wider) + len(others)
		eventually(t, "the broker shows what was added", func() bool { return len(g.list(t)) == all })
		sorted := cmp.Transformer("sorted", func(acls []bus.ACL) []string {
			var out []string
			for _, a := range acls {
				out = append(out, a.String())
			}
			slices.Sort(out)
			return out
		})
		if diff := cmp.Diff(bus.RightsPlan{Superfluous: superfluous, Wider: wider}, plan(), sorted); diff != "" {
			t.Errorf("plan with further entries (-want +got):\n%s", diff)
		}
		g.grant(t, false)
		if p := plan(); len(p.Superfluous) != len(superfluous) {
			t.Errorf("without prune %v are left, want all", p.Superfluous)
		}
		operator := g.client(t, string(contract.Operator))
		if _, err := operator.EnsureACLs(ctx, g.rights, false); err != nil {
			t.Errorf("with nothing to grant: %v", err)
		}
		if _, err := operator.EnsureACLs(ctx, g.rights, true); !errors.Is(err, bus.ErrMayNotGrant) || bus.Retriable(err) {
			t.Errorf("an operator takes rights away: %v, want %v for good", err, bus.ErrMayNotGrant)
		}
		g.grant(t, true)
		if diff := cmp.Diff(bus.RightsPlan{Wider: wider}, plan(), sorted); diff != "" {
			t.Errorf("plan after pruning (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(slices.Concat(want, wider, others), g.list(t), sorted); diff != "" {
			t.Errorf("the broker's list after pruning (-want +got):\n%s", diff)
		}
	})
}

// Each party does what the table of edges says, by the calls that it makes, and is
// refused everything else.
func TestEachPartyMayDoItsPartAlone(t *testing.T) {
	t.Parallel()
	bothGuarded(t, func(t *testing.T, g guarded) {
		g.grant(t, false)
		specs := g.topics.Specs(2)
		operator := g.client(t, string(contract.Operator))
		if err := operator.EnsureTopics(within(t, 60*time.Second), specs); err != nil {
			t.Fatalf("operator creates the topics: %v", err)
		}
		eventually(t, "the administrator knows the topics", func() bool {
			d, err := g.admin.PlanTopics(within(t, 20*time.Second), specs)
			return err == nil && len(d) == 0
		})
		t.Run("set-up", func(t *testing.T) { g.setUp(t, specs) })
		for _, edge := range g.topics.Edges() {
			write(t, g.admin, record(edge.Topic, 0, "first"))
			for _, party := range append(contract.Parties(), stranger) {
				t.Run(fmt.Sprintf("%s and %s", party, edge.Topic), func(t *testing.T) { g.onTopic(t, party, edge) })
			}
		}
		for _, m := range contract.NewGroups(g.prefix).Memberships() {
			for _, party := range append(contract.Parties(), stranger) {
				t.Run(fmt.Sprintf("%s and %s", party, m.Group), func(t *testing.T) { g.onGroup(t, party, m) })
			}
		}
		t.Run("cluster", g.onCluster)
		t.Run("analysts with more rights", g.barred)
	})
}

// setUp: operators alone set up topics and look at rights; of other names not even they.
func (g guarded) setUp(t *testing.T, specs []contract.Spec) {
	ctx := within(t, 60*time.Second)
	operator := g.client(t, string(contract.Operator))
	specs[0].Configs["retention.ms"] = "86400000"
	if err := operator.EnsureTopics(ctx, specs); err != nil {
		t.Errorf("operator changes a setting: %v", err)
	}
	eventually(t, "the operator sees the setting", func() bool { d, err := operator.PlanTopics(ctx, specs); return err == nil && len(d) == 0 })
	if p, err := operator.PlanACLs(ctx, g.rights); err != nil || !p.AsWanted() {
		t.Errorf("operator plans rights: %v, %v", p, err)
	}
	other := []contract.Spec{{Name: g.prefix + ".other.v1", Partitions: 1}}
	for _, party := range append(contract.Parties(), stranger) {
		c := g.client(t, string(party))
		if err := c.EnsureTopics(ctx, other); !errors.Is(err, kafka.TopicAuthorizationFailed) || bus.Retriable(err) {
			t.Errorf("%s creates a topic of another name: %v", party, err)
		}
		if party == contract.Operator {
			continue
		}
		if _, err := c.PlanACLs(ctx, g.rights); !errors.Is(err, bus.ErrMayNotPlan) {
			t.Errorf("%s plans rights: %v", party, err)
		}
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		resource := kmsg.NewIncrementalAlterConfigsRequestResource()
		resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, g.topics.Events
		req.Resources = append(req.Resources, resource)
		for _, r := range g.ask(t, string(party), req).(*kmsg.IncrementalAlterConfigsResponse).Resources {
			wantCode(t, "change settings", r.ErrorCode, kerr.TopicAuthorizationFailed)
		}
	}
}

// onTopic: who writes and reads a topic, and what the broker says that one may do with it.
func (g guarded) onTopic(t *testing.T, party contract.Party, edge contract.Edge) {
	writes, reads := slices.Contains(edge.Writers, party), slices.Contains(edge.Readers, party)
	ops := map[kmsg.ACLOperation]bool{}
	if writes {
		ops[kmsg.ACLOperationWrite], ops[kmsg.ACLOperationDescribe] = true, true
	}
	if reads {
		ops[kmsg.ACLOperationRead], ops[kmsg.ACLOperationDescribe] = true, true
	}
	if party == contract.Operator {
		for _, op := range []kmsg.ACLOperation{
			kmsg.ACLOperationCreate, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs,
		} {
			ops[op] = true
		}
	}
	if diff := cmp.Diff(names(ops), g.operations(t, party, edge.Topic)); diff != "" {
		t.Errorf("operations by the broker's word (-want +got):\n%s", diff)
	}

	c := g.client(t, string(party))
	err := c.Write(within(t, 20*time.Second), records(edge.Topic, 0, "by "+string(party)))
	switch {
	case writes && err != nil:
		t.Errorf("write: %v", err)
	case !writes && (err == nil || !errors.Is(err, bus.ErrNotSent)):
		t.Errorf("write: %v, want it refused", err)
	case !writes:
		wantCode(t, "write", g.produce(t, party, edge.Topic), kerr.TopicAuthorizationFailed)
	}
	if !reads {
		wantCode(t, "read", g.fetch(t, party, edge.Topic), kerr.TopicAuthorizationFailed)
	} else {
		if got := readAll(t, c, edge.Topic, 0); len(got) == 0 || got[0] != "first" {
			t.Errorf("read %q", got)
		}
		wantCode(t, "read", g.fetch(t, party, edge.Topic), nil)
	}
	if len(ops) == 0 {
		_, err := c.Partitions(within(t, 20*time.Second), edge.Topic)
		if !errors.Is(err, kafka.UnknownTopicOrPartition) || !strings.Contains(err.Error(), "no right") {
			t.Errorf("partitions: %v, want it hidden, and a word about rights", err)
		}
	} else if _, _, err := c.Offsets(within(t, 20*time.Second), edge.Topic); err != nil {
		t.Errorf("offsets: %v", err)
	}
}

// onGroup: members join and commit; nobody else gets in to take partitions away from them.
func (g guarded) onGroup(t *testing.T, party contract.Party, m contract.Membership) {
	group := m.Group
	if m.Prefixed {
		group += "-report"
	}
	if party != m.Member {
		wantCode(t, "join", g.join(t, party, group), kerr.GroupAuthorizationFailed)
		return
	}
	var topic string
	for _, edge := range g.topics.Edges() {
		if slices.Contains(edge.Readers, party) {
			topic = edge.Topic
		}
	}
	c := g.client(t, string(party))
	joinAndCommit(t, c, group, topic)
	offsets, err := c.Committed(within(t, 20*time.Second), group, topic)
	if diff := cmp.Diff([]int64{1, 2}, offsets); diff != "" || err != nil {
		t.Errorf("committed: %v (-want +got):\n%s", err, diff)
	}
}

// onCluster: nobody has a say over the cluster; operators may look at rights.
func (g guarded) onCluster(t *testing.T) {
	for _, party := range append(contract.Parties(), stranger) {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.IncludeClusterAuthorizedOperations = true
		ops := map[kmsg.ACLOperation]bool{}
		if party == contract.Operator {
			ops[kmsg.ACLOperationDescribe] = true
		}
		res := g.ask(t, string(party), req).(*kmsg.DescribeClusterResponse)
		if diff := cmp.Diff(names(ops), names(bits(res.ClusterAuthorizedOperations))); diff != "" {
			t.Errorf("%s may do with the cluster (-want +got):\n%s", party, diff)
		}
	}
}

// barred: somebody lets analysts read everything, as happens. What people write stays closed.
func (g guarded) barred(t *testing.T) {
	g.add(t, bus.ACL{Principal: "User:" + string(contract.Analyst), Host: "*", Resource: bus.TopicResource, Name: "*", Operation: bus.Read})
	eventually(t, "analysts can read dead letters", func() bool { return g.fetch(t, contract.Analyst, g.topics.DeadLetter) == 0 })
	for _, edge := range g.topics.Edges() {
		if slices.Contains(edge.Barred, contract.Analyst) {
			wantCode(t, "read "+edge.Topic, g.fetch(t, contract.Analyst, edge.Topic), kerr.TopicAuthorizationFailed)
		}
	}
}

func wantCode(t *testing.T, what string, code int16, want *kerr.Error) {
	t.Helper()
	if got := kerr.TypedErrorForCode(code); got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func names(ops map[kmsg.ACLOperation]bool) []string {
	all := []string{}
	for op := range maps.Keys(ops) {
		all = append(all, op.String())
	}
	slices.Sort(all)
	return all
}
