package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/embedded"
)

// at runs a command with the environment and returns what it printed.
func at(t *testing.T, variables map[string]string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out output
	err := run(ctx, args, terminal{environ: environ(variables), stdout: &out, stderr: &out})
	return out.String(), err
}

// The administrator plans and grants rights, twice without harm, and takes away superfluous
// ones only when told to. Others are told what they lack.
func TestTopicsRights(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB, ...string) kafkatest.Guarded{
		"embedded": kafkatest.EmbeddedGuarded, "apache": kafkatest.ApacheGuarded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := kafkatest.Prefix(t)
			operator := prefix + "-operator"
			g := start(t, operator, "stranger")
			as := func(user string) map[string]string {
				env := environment(kafkatest.Door{Broker: g.Broker, Security: g.As(user)})
				env["KAFKA_TOPIC_PREFIX"] = prefix
				return env
			}
			expect := func(user string, args []string, lines ...string) string {
				t.Helper()
				out, err := at(t, as(user), args...)
				if err != nil {
					t.Fatalf("%v by %s: %v\n%s", args, user, err, out)
				}
				for _, line := range lines {
					if !strings.Contains("\n"+out, "\n"+line) {
						t.Errorf("%v by %s printed\n%swant the line %q", args, user, out, line)
					}
				}
				return out
			}
			refused := func(user string, want string, args ...string) {
				t.Helper()
				if out, err := at(t, as(user), args...); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v by %s: %v, want %q\n%s", args, user, err, want, out)
				}
			}
			plan, apply := []string{"topics", "plan", "--acls"}, []string{"topics", "apply", "--acls"}
			topics := contract.NewTopics(prefix)
			write := fmt.Sprintf("missing: User:%s-ingest may Write topic %s", prefix, topics.Commands)
			expect(kafkatest.Administrator, plan, topics.Commands+": does not exist", write,
				fmt.Sprintf("missing: User:%s-analyst must not All topic %s", prefix, topics.Commands),
				fmt.Sprintf("missing: User:%s-analyst may Read group %s-analyst…", prefix, prefix))
			named := expect(kafkatest.Administrator, append(slices.Clone(plan), "--principal", "ingest=User:elsewhere"),
				"missing: User:elsewhere may Write topic "+topics.Commands)
			if strings.Contains(named, prefix+"-ingest") {
				t.Errorf("with another login for ingest the plan has the default one too:\n%s", named)
			}
			refused("stranger", "may not look at rights", plan...)
			out := expect(kafkatest.Administrator, apply, write)
			if want := fmt.Sprintf("%d rights granted, 0 taken away\n", strings.Count(out, "missing: ")); !strings.HasSuffix(out, want) {
				t.Errorf("printed\n%swant at its end %q", out, want)
			}
			asWanted := "topics are as they should be\nrights are as they should be\n"
			for _, user := range []string{kafkatest.Administrator, operator} {
				for _, args := range [][]string{plan, apply, append(slices.Clone(apply), "--prune")} {
					if diff := cmp.Diff(asWanted, expect(user, args)); diff != "" {
						t.Errorf("%v by %s afterwards (-want +got):\n%s", args, user, diff)
					}
				}
			}

			// Another login for ingest: the plan looks at the ones that it is given.
			other := append(slices.Clone(apply), "--principal", "ingest=User:CN=ingest,O=example")
			expect(kafkatest.Administrator, other, "missing: User:CN=ingest,O=example may Write topic "+topics.Commands, "4 rights granted, 0 taken away")
			expect(kafkatest.Administrator, append(slices.Clone(other), "--principal", "ingest=User:"+prefix+"-ingest"), "rights are as they should be")
			// It becomes the realtime role's alone: what it had as ingest is superfluous.
			moved := []string{"--principal", "realtime=User:CN=ingest,O=example"}
			superfluous := "superfluous: User:CN=ingest,O=example may Write topic " + topics.Commands
			refused(operator, "may not grant rights", append(append(slices.Clone(apply), "--prune"), moved...)...)
			expect(kafkatest.Administrator, append(slices.Clone(apply), moved...), superfluous)
			expect(kafkatest.Administrator, append(slices.Clone(plan), moved...), superfluous)
			expect(kafkatest.Administrator, append(append(slices.Clone(apply), "--prune"), moved...), superfluous, "0 rights granted, 2 taken away")
			expect(kafkatest.Administrator, append(slices.Clone(plan), moved...), "rights are as they should be")
			refused("stranger", "may not look at rights", plan...)
		})
	}
}

// All roles in one process need one login with the rights of each.
func TestAllWithTheRightsOfEachRole(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB, ...string) kafkatest.Guarded{
		"embedded": kafkatest.EmbeddedGuarded, "apache": kafkatest.ApacheGuarded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, "one-for-all")
			args := []string{"topics", "apply", "--acls"}
			for _, party := range contract.Parties() {
				if party != contract.Analyst {
					args = append(args, "--principal", string(party)+"=User:one-for-all")
				}
			}
			if out, err := at(t, environment(kafkatest.Door{Broker: g.Broker, Security: g.As(kafkatest.Administrator)}), args...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			w := newTown(t, environ(environment(kafkatest.Door{Broker: g.Broker, Security: g.As("one-for-all")}))...)
			if ana, ben := w.couple(t, "Ana", "Ben"); ana.partnershipID == "" || ana.partnershipID != ben.partnershipID {
				t.Errorf("partnerships %q and %q, want the same", ana.partnershipID, ben.partnershipID)
			}
		})
	}
}

// Brokers without an authorizer grant nothing, and say so: Apache Kafka without one, and
// the broker of bondmate all.
func TestTopicsRightsNeedAnAuthorizer(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) string{
		"embedded": func(t *testing.T) string {
			b, err := embedded.StartBroker(embedded.BrokerConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.Close)
			return b.Addr
		},
		"apache": func(t *testing.T) string { return kafkatest.Apache(t).Brokers()[0] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"KAFKA_BROKERS": start(t), "KAFKA_PARTITIONS": "3", "KAFKA_TOPIC_PREFIX": kafkatest.Prefix(t)}
			for _, args := range [][]string{{"topics", "plan", "--acls"}, {"topics", "apply", "--acls"}, {"topics", "apply", "--acls", "--prune"}} {
				out, err := at(t, env, args...)
				if err == nil || !strings.Contains(err.Error(), "the brokers have no authorizer") || strings.Contains(out, "granted") {
					t.Errorf("%v: %v\n%s", args, err, out)
				}
			}
		})
	}
}

func TestTopicsRightsFlags(t *testing.T) {
	t.Parallel()
	env := map[string]string{"KAFKA_BROKERS": "127.0.0.1:1"}
	for want, args := range map[string][]string{
		"go with --acls":                  {"topics", "apply", "--prune"},
		"--principal and --prune go":      {"topics", "plan", "--principal", "ingest=User:a"},
		"want one of [ingest processor":   {"topics", "plan", "--acls", "--principal", "admin=User:a"},
		"such as User:ingest":             {"topics", "plan", "--acls", "--principal", "ingest"},
		"and not everybody":               {"topics", "plan", "--acls", "--principal", "analyst=User:*"},
		"one principal cannot be both":    {"topics", "plan", "--acls", "--principal", "analyst=User:a", "--principal", "processor=User:a"},
		"unknown flag: --prune":           {"topics", "plan", "--acls", "--prune"},
		"KAFKA_TOPIC_PREFIX: \"a b\" may": nil,
	} {
		variables := env
		if args == nil {
			args, variables = []string{"topics", "plan", "--acls"}, map[string]string{"KAFKA_BROKERS": "127.0.0.1:1", "KAFKA_TOPIC_PREFIX": "a b"}
		}
		if out, err := at(t, variables, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q\n%s", args, err, want, out)
		}
	}
}

// Every Kafka client of the program is made at one place, newBus, which gives it the one
// security configuration; and pkg/bus makes every connection of a client at one place, dial.
func TestEveryKafkaClientIsMadeAtOnePlace(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	made := map[string][]string{}
	note := func(what, file string, fn ast.Node, calls func(*ast.CallExpr) bool) {
		ast.Inspect(fn, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && calls(call) {
				made[what] = append(made[what], file)
			}
			return true
		})
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(file, filepath.Join("pkg", "bus", "kafkatest")) {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		imported := map[string]bool{}
		for _, i := range parsed.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imported[name] = true
		}
		if imported["github.com/bondmate/backend/pkg/bus"] {
			note("clients", file, parsed, func(c *ast.CallExpr) bool { return selects(c, "bus", "New") })
		}
		if filepath.Dir(file) == filepath.Join("pkg", "bus") {
			note("connections", file, parsed, func(c *ast.CallExpr) bool {
				s, ok := c.Fun.(*ast.SelectorExpr)
				return ok && strings.HasPrefix(s.Sel.Name, "Dial") || selects(c, "kafka", "NewReader") || selects(c, "kafka", "NewWriter")
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"clients": {filepath.Join("cmd", "bondmate", "kafka.go")}, "connections": {filepath.Join("pkg", "bus", "client.go")}}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("where they are made (-want +got):\n%s", diff)
	}
}

// selects says whether a call is of a package's function.
func selects(call *ast.CallExpr, pkg, name string) bool {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	id, ok := s.X.(*ast.Ident)
	return ok && id.Name == pkg
}
