package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
)

// ask sends a request over another client library, as somebody else's tool would: it goes
// to the broker whatever the user may know of the topics.
func ask(t *testing.T, broker string, as bus.Security, req kmsg.Request) kmsg.Response {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RequestRetries(5),
		kgo.MaxVersions(kversion.V2_8_0()), // topics by name
		kgo.SASL(scram.Auth{User: as.Username, Pass: as.Password}.AsSha256Mechanism()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	res, err := cl.SeedBrokers()[0].RetriableRequest(within(t, 20*time.Second), req)
	if err != nil {
		t.Fatalf("request %T as %s: %v", req, as.Username, err)
	}
	return res
}

// operations is what the broker says that a user may do with a topic.
func (g guarded) operations(t *testing.T, party contract.Party, topic string) []string {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	one := kmsg.NewMetadataRequestTopic()
	one.Topic = &topic
	req.Topics = append(req.Topics, one)
	for _, r := range g.ask(t, string(party), req).(*kmsg.MetadataResponse).Topics {
		if r.ErrorCode == 0 {
			return names(bits(r.AuthorizedOperations))
		}
	}
	return names(nil)
}

// bits reads a set of operations (KIP-430).
func bits(field int32) map[kmsg.ACLOperation]bool {
	ops := map[kmsg.ACLOperation]bool{}
	for op := kmsg.ACLOperationAll; op <= kmsg.ACLOperationIdempotentWrite; op++ {
		if field&(1<<op) != 0 {
			ops[op] = true
		}
	}
	return ops
}

// fetch returns the broker's answer to a read of a topic.
func (g guarded) fetch(t *testing.T, party contract.Party, topic string) (code int16) {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MaxBytes, req.SessionEpoch = 1, 1<<20, -1
	one := kmsg.NewFetchRequestTopic()
	one.Topic = topic
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 1 << 20
	one.Partitions = append(one.Partitions, part)
	req.Topics = append(req.Topics, one)
	res := g.ask(t, string(party), req).(*kmsg.FetchResponse)
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		t.Fatalf("fetch %s: %+v", topic, res)
	}
	return res.Topics[0].Partitions[0].ErrorCode
}

// produce returns the broker's answer to a write that would be refused for its content too,
// were it let in.
func (g guarded) produce(t *testing.T, party contract.Party, topic string) (code int16) {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 5000
	one := kmsg.NewProduceRequestTopic()
	one.Topic = topic
	one.Partitions = append(one.Partitions, kmsg.NewProduceRequestTopicPartition())
	req.Topics = append(req.Topics, one)
	res := g.ask(t, string(party), req).(*kmsg.ProduceResponse)
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		t.Fatalf("produce to %s: %+v", topic, res)
	}
	return res.Topics[0].Partitions[0].ErrorCode
}

// join returns the broker's answer to a request to join a group.
func (g guarded) join(t *testing.T, party contract.Party, group string) (code int16) {
	t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.ProtocolType = group, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 6000, 6000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name = "range"
	req.Protocols = append(req.Protocols, protocol)
	return g.ask(t, string(party), req).(*kmsg.JoinGroupResponse).ErrorCode
}

// add makes entries that no plan asks for.
func (g guarded) add(t *testing.T, acls ...bus.ACL) {
	t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, a := range acls {
		one := kmsg.NewCreateACLsRequestCreation()
		one.Principal, one.Host, one.ResourceName = a.Principal, a.Host, a.Name
		one.ResourcePatternType, one.PermissionType = kmsg.ACLResourcePatternTypeLiteral, kmsg.ACLPermissionTypeAllow
		if a.Prefixed {
			one.ResourcePatternType = kmsg.ACLResourcePatternTypePrefixed
		}
		if a.Deny {
			one.PermissionType = kmsg.ACLPermissionTypeDeny
		}
		var err error
		if one.ResourceType, err = kmsg.ParseACLResourceType(string(a.Resource)); err != nil {
			t.Fatal(err)
		}
		if one.Operation, err = kmsg.ParseACLOperation(string(a.Operation)); err != nil {
			t.Fatal(err)
		}
		req.Creations = append(req.Creations, one)
	}
	for _, r := range g.ask(t, kafkatest.Administrator, req).(*kmsg.CreateACLsResponse).Results {
		wantCode(t, "add an entry", r.ErrorCode, nil)
	}
}

// list returns all entries that the broker has.
func (g guarded) list(t *testing.T) []bus.ACL {
	t.Helper()
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resources := map[kmsg.ACLResourceType]bus.Resource{
		kmsg.ACLResourceTypeTopic: bus.TopicResource, kmsg.ACLResourceTypeGroup: bus.GroupResource, kmsg.ACLResourceTypeCluster: bus.ClusterResource,
	}
	operations := map[kmsg.ACLOperation]bus.Operation{
		kmsg.ACLOperationAll: bus.All, kmsg.ACLOperationRead: bus.Read, kmsg.ACLOperationWrite: bus.Write, kmsg.ACLOperationCreate: bus.Create,
		kmsg.ACLOperationDescribe: bus.Describe, kmsg.ACLOperationAlterConfigs: bus.AlterConfigs,
	}
	var acls []bus.ACL
	for _, r := range g.ask(t, kafkatest.Administrator, req).(*kmsg.DescribeACLsResponse).Resources {
		for _, a := range r.ACLs {
			acls = append(acls, bus.ACL{
				Principal: a.Principal, Host: a.Host, Resource: resources[r.ResourceType], Name: r.ResourceName,
				Prefixed:  r.ResourcePatternType == kmsg.ACLResourcePatternTypePrefixed,
				Operation: operations[a.Operation], Deny: a.PermissionType == kmsg.ACLPermissionTypeDeny,
			})
		}
	}
	return acls
}

// joinAndCommit is what the roles do in a group.
func joinAndCommit(t *testing.T, c *bus.Client, group, topic string) {
	t.Helper()
	committed := make(chan error, 1)
	running(t, func(ctx context.Context) error {
		return c.RunGroup(ctx, bus.GroupConfig{
			ID: group, Topic: topic, SessionTimeout: 3 * time.Second, RebalanceTimeout: 3 * time.Second, Heartbeat: 50 * time.Millisecond,
		}, func(ctx context.Context, gen bus.Generation) error {
			committed <- gen.Commit(ctx, map[int]int64{0: 1, 1: 2})
			<-ctx.Done()
			return ctx.Err()
		})
	})
	select {
	case err := <-committed:
		if err != nil {
			t.Fatalf("commit: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no generation within 30 s")
	}
}
