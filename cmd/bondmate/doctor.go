package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
)

// lookWithin bounds each look at a server: one that needs longer is as good as away.
const lookWithin = 5 * time.Second

func doctorCommand(term terminal) *cobra.Command {
	var security bool
	var role string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at the environment, its files and the servers that it names; say what is wrong and how to mend it",
		Long: "Look at the environment, its files and the servers that it names; say what is wrong and how to mend it.\n" +
			"With --security instead: judge the environment and its files as production does, whatever APP_ENV says.\n" +
			"Nothing is changed, nothing secret is printed. The exit code is 1 when something fails.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(config.Roles(), config.Role(role)) {
				return fmt.Errorf("--role %s: there is no such role", role)
			}
			cfg, fault := config.Load(term.environ)
			d := doctor{cfg: cfg, role: config.Role(role), term: term, faults: fault, now: term.clock}
			if d.now == nil {
				d.now = time.Now
			}
			findings := d.look
			if security {
				findings = d.judge
			}
			return report(term.stdout, findings(cmd.Context()))
		},
	}
	cmd.Flags().BoolVar(&security, "security", false, "judge as production does, without asking a server")
	cmd.Flags().StringVar(&role, "role", string(config.All), "what is to run with this environment: all, ingest, processor, notifier or realtime")
	return cmd
}

// doctor looks at one environment.
type doctor struct {
	cfg    config.Config
	role   config.Role
	term   terminal
	faults error // of the environment itself
	now    func() time.Time
}

// judge is doctor --security.
func (d doctor) judge(context.Context) []config.Finding {
	found := []config.Finding{{Name: "environment", Level: config.OK, Variable: "APP_ENV", Why: "is production: it starts with nothing that fails here"}}
	if d.cfg.Env != config.Production {
		found[0].Level, found[0].Why = config.Warn, "is "+string(d.cfg.Env)+": production would refuse what fails here"
		found[0].Mend = "APP_ENV=production where people use it"
	}
	found = append(found, d.cfg.Security(d.role)...)
	found = append(found, d.demo())
	return append(found, d.files()...)
}

func (d doctor) demo() config.Finding {
	if d.cfg.Env == config.Production {
		return fine("demo", "APP_ENV", "is hidden")
	}
	return config.Finding{Name: "demo", Level: config.Warn, Variable: "APP_ENV", Why: "/demo is served", Mend: "APP_ENV=production hides it"}
}

// look is doctor.
func (d doctor) look(ctx context.Context) []config.Finding {
	var found []config.Finding
	if d.faults == nil {
		found = append(found, fine("environment", "APP_ENV", "has no faults"))
	} else {
		for line := range strings.SplitSeq(d.faults.Error(), "\n") {
			variable, problem, _ := strings.Cut(line, ": ")
			found = append(found, config.Finding{Name: "environment", Level: config.Fail, Variable: variable, Why: problem, Mend: "bondmate config says what it means"})
		}
	}
	found = append(found, d.security())
	found = append(found, d.files()...)
	found = append(found, d.openFiles())
	found = append(found, d.postgres(ctx)...)
	found = append(found, d.kafka(ctx)...)
	return append(found, d.redis(ctx))
}

// security sums up doctor --security.
func (d doctor) security() config.Finding {
	counts := map[config.Level]int{}
	for _, f := range d.cfg.Security(d.role) {
		counts[f.Level]++
	}
	f := config.Finding{
		Name: "security", Level: config.OK, Variable: "APP_ENV",
		Why: fmt.Sprintf("%d fail, %d to think about", counts[config.Fail], counts[config.Warn]), Mend: "bondmate doctor --security",
	}
	switch {
	case counts[config.Fail] > 0 && d.cfg.Env == config.Production:
		f.Level = config.Fail
	case counts[config.Fail]+counts[config.Warn] > 0:
		f.Level = config.Warn
	default:
		f.Mend = ""
	}
	return f
}

func fine(name, variable, why string) config.Finding {
	return config.Finding{Name: name, Level: config.OK, Variable: variable, Why: why}
}

func bad(name, variable string, err error, mend string) config.Finding {
	// One line: what a driver joins would break the table.
	why := strings.Join(strings.Fields(err.Error()), " ")
	return config.Finding{Name: name, Level: config.Fail, Variable: variable, Why: why, Mend: mend}
}

// errFailed is only for the exit code: the table has said what.
var errFailed = errors.New("not as it should be")

func report(to io.Writer, findings []config.Finding) error {
	out := tabwriter.NewWriter(to, 0, 4, 2, ' ', 0)
	fmt.Fprintln(out, "CHECK\tRESULT\tVARIABLE\tWHY\tHOW TO MEND IT")
	failed := 0
	for _, f := range findings {
		if f.Level == config.Fail {
			failed++
		}
		mend := f.Mend
		if mend == "" {
			mend = "-"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", f.Name, f.Level, f.Variable, f.Why, mend)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("print findings: %w", err)
	}
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d checks failed", errFailed, failed, len(findings))
	}
	return nil
}
