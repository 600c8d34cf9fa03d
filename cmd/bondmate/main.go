// Command bondmate is the whole backend in one binary: every role, alone or together,
// and the operator's commands.
//
// Each role's file wires it in a straight line: what it needs is opened, passed in, and
// added to the process's group, which runs and stops it (pkg/service). Nothing below this
// folder knows how the parts are put together.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/service"
)

func main() {
	redis.SetLogger(silence{})
	ctx, stop := service.Interruptible(context.Background())
	err := run(ctx, os.Args[1:], terminal{environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr, clock: time.Now})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bondmate:", err)
		os.Exit(1)
	}
}

// silence takes a library's own lines, one for each connection that fails: what a failure
// means is told by who meets it, and by the metrics.
type silence struct{}

// Printf implements the library's logger.
func (silence) Printf(context.Context, string, ...any) {}

// terminal is what the program has of the world.
type terminal struct {
	environ        []string
	stdout, stderr io.Writer
	clock          func() time.Time // of the roles and of operators' commands; nil: time.Now
}

// now is the time by the terminal's clock.
func (t terminal) now() time.Time {
	if t.clock == nil {
		return time.Now()
	}
	return t.clock()
}

// load reads the configuration.
func (t terminal) load() (config.Config, error) {
	cfg, err := config.Load(t.environ)
	if err != nil {
		return cfg, fmt.Errorf("the environment has faults:\n%w", err)
	}
	return cfg, nil
}

// loadFor is load for a role that is about to run.
func (t terminal) loadFor(role config.Role) (config.Config, error) {
	cfg, err := config.LoadFor(t.environ, role)
	if err != nil {
		return cfg, fmt.Errorf("the environment has faults:\n%w", err)
	}
	return cfg, nil
}

// loadDatabase is load for a command that works on a database of which it must be told.
func (t terminal) loadDatabase() (config.Config, error) {
	cfg, err := t.load()
	if err == nil && cfg.DatabaseURL == "" {
		err = &config.Fault{Variable: "DATABASE_URL", Problem: "is needed; all writes its own to DATA_DIR/postgres.dsn"}
	}
	return cfg, err
}

func run(ctx context.Context, args []string, term terminal) error {
	root := &cobra.Command{
		Use:           "bondmate",
		Short:         "The backend of a couples app: commands in over HTTP, events out over WebSocket and push",
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	}
	root.AddCommand(
		allCommand(term), ingestCommand(term), processorCommand(term), notifierCommand(term), realtimeCommand(term),
		migrateCommand(term), topicsCommand(term), timersCommand(term), parkedCommand(term), deadLettersCommand(term), deliveriesCommand(term),
		replayCommand(term), exportCommand(term), usersCommand(term), reportsCommand(term), keysCommand(term), apiKeysCommand(term),
		configCommand(term), doctorCommand(term), healthcheckCommand(term), loadCommand(term), versionCommand(term),
	)
	root.SetArgs(args)
	root.SetOut(term.stdout)
	root.SetErr(term.stderr)
	return root.ExecuteContext(ctx)
}
