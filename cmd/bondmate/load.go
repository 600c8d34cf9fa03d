package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/cmd/bondmate/load"
	"github.com/bondmate/backend/cmd/bondmate/phone"
)

func loadCommand(term terminal) *cobra.Command {
	var cfg load.Config
	var url string
	var callers int
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load a running server as phones do and report latency or throughput",
		Long: `Load a running server as phones do and report what was measured.

With --rate, commands start on a fixed schedule (open-loop), and the time is from the POST on
one phone, counted from its scheduled start, to the event on the other phone's socket.
With --callers, so many phones each wait for a command's outcome before they post the next
(closed-loop), and the figure is commands applied per second.

The phones ask each other far more often than people may: the server needs RATE_LIMITS=off.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Server = phone.NewServer(url)
			if !quiet {
				cfg.Progress = func(done, failed int64) {
					_, _ = fmt.Fprintf(term.stderr, "%d done, %d failed\n", done, failed)
				}
			}
			if callers > 0 {
				cfg.Pairs = callers
				return runLoad(cmd.Context(), term.stdout, cfg, load.Throughput)
			}
			return runLoad(cmd.Context(), term.stdout, cfg, load.Latency)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&url, "url", "http://127.0.0.1:3000", "the server")
	flags.Float64Var(&cfg.Rate, "rate", 10, "commands a second")
	flags.IntVar(&cfg.Pairs, "pairs", 20, "pairs of phones that share the rate")
	flags.IntVar(&callers, "callers", 0, "waiting callers; measures throughput instead of latency")
	flags.DurationVar(&cfg.Duration, "duration", 15*time.Second, "how long to measure")
	flags.DurationVar(&cfg.Warmup, "warmup", 3*time.Second, "how long to run before measuring")
	flags.BoolVar(&quiet, "quiet", false, "no progress")
	return cmd
}

func runLoad(ctx context.Context, out io.Writer, cfg load.Config, measure func(context.Context, load.Config) (load.Report, error)) error {
	if cfg.Pairs < 1 || cfg.Rate <= 0 || cfg.Duration <= 0 {
		return fmt.Errorf("pairs, rate and duration must be positive")
	}
	report, err := measure(ctx, cfg)
	if err != nil {
		return err
	}
	ms := func(times []time.Duration, p float64) string {
		return fmt.Sprintf("%.2f ms", float64(load.Percentile(times, p).Microseconds())/1000)
	}
	if report.Offered > 0 {
		_, err = fmt.Fprintf(out, "%.0f/s offered, %.1f/s achieved, %d failed: POST to other phone's socket p50 %s, p99 %s, max %s; POST to 202 p50 %s, p99 %s\n",
			report.Offered, report.Achieved, report.Failed, ms(report.Times, 0.5), ms(report.Times, 0.99), ms(report.Times, 1),
			ms(report.Answers, 0.5), ms(report.Answers, 0.99))
	} else {
		_, err = fmt.Fprintf(out, "%d waiting callers: %.0f commands/s applied, %d failed; POST to outcome p50 %s, p99 %s\n",
			cfg.Pairs, report.Achieved, report.Failed, ms(report.Times, 0.5), ms(report.Times, 0.99))
	}
	return err
}
