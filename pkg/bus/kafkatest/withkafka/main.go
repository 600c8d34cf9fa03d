// Command withkafka starts an Apache Kafka, runs a command with its address in
// TEST_KAFKA_BROKERS, stops it and exits as the command did. .ci/with-kafka calls it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/bondmate/backend/pkg/bus/kafkatest/apache"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "with-kafka:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New("usage: with-kafka CMD [ARG...]")
	}
	dir, err := os.MkdirTemp("", "bondmate-kafka-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// The command gets the terminal's signals as well and ends by them; then Kafka is stopped.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	starting, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	server, err := apache.New(starting, dir)
	if err != nil {
		return 1, err
	}
	if err = server.Start(starting); err != nil {
		return 1, err
	}
	defer server.Kill()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the caller's own command
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "TEST_KAFKA_BROKERS="+server.Addr)
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
