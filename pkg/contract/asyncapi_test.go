package contract

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/bondmate/backend/pkg/partner"
)

// The document names each topic, each record type and its schema, and no others.
func TestAsyncAPIListsEveryRecord(t *testing.T) {
	t.Parallel()
	type message struct {
		Name    string
		Payload map[string]any
	}
	type channel struct {
		Address  string
		Messages map[string]map[string]string
	}
	var doc struct {
		Channels   map[string]channel
		Components struct{ Messages map[string]message }
	}
	if err := yaml.Unmarshal(AsyncAPI, &doc); err != nil {
		t.Fatal(err)
	}
	schemas, err := Schemas()
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for key, m := range doc.Components.Messages {
		ref, ok := m.Payload["$ref"].(string)
		if !ok {
			continue // of the WebSocket: written out in place
		}
		if want := "schemas/" + m.Name + ".json"; ref != want {
			t.Errorf("message %s refers to %s, not %s", key, ref, want)
		}
		documented = append(documented, m.Name)
	}
	slices.Sort(documented)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(schemas)), documented); diff != "" {
		t.Errorf("schemas and documented messages (-schemas +documented):\n%s", diff)
	}

	topics := NewTopics(DefaultPrefix)
	names := func(channel, topic string) []string {
		c, ok := doc.Channels[channel]
		if !ok || c.Address != topic {
			t.Errorf("channel %s has the address %q, not %q", channel, c.Address, topic)
		}
		var out []string
		for _, ref := range c.Messages {
			out = append(out, doc.Components.Messages[strings.TrimPrefix(ref["$ref"], "#/components/messages/")].Name)
		}
		slices.Sort(out)
		return out
	}
	var commands []string
	for _, c := range partner.CommandTypes() {
		commands = append(commands, c.String())
	}
	slices.Sort(commands)
	if diff := cmp.Diff(commands, names("commands", topics.Commands)); diff != "" {
		t.Errorf("commands (-core +documented):\n%s", diff)
	}
	events := slices.DeleteFunc(slices.Clone(documented), func(name string) bool {
		return slices.Contains(commands, name) || slices.Contains([]string{
			DeadLetterType, CoupleType, UserType, PushOutcomeType, SessionRevokedType, PresenceType,
		}, name)
	})
	if diff := cmp.Diff(events, names("events", topics.Events)); diff != "" {
		t.Errorf("events (-documented messages +channel):\n%s", diff)
	}
	for channel, of := range map[string]struct{ topic, record string }{
		"deadletter": {topics.DeadLetter, DeadLetterType}, "couples": {topics.Couples, CoupleType}, "users": {topics.Users, UserType},
		"pushes": {topics.Pushes, PushOutcomeType}, "control": {topics.Control, SessionRevokedType}, "presence": {topics.Presence, PresenceType},
	} {
		if diff := cmp.Diff([]string{of.record}, names(channel, of.topic)); diff != "" {
			t.Errorf("records of %s (-code +channel):\n%s", channel, diff)
		}
	}
	for _, spec := range topics.Specs(1) {
		if !slices.ContainsFunc(slices.Collect(maps.Values(doc.Channels)), func(c channel) bool { return c.Address == spec.Name }) {
			t.Errorf("topic %s is not documented", spec.Name)
		}
	}
}
