package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/pkg/config"
)

func newBus(cfg config.Config, brokers []string, log *slog.Logger) *bus.Client {
	return bus.New(bus.Config{
		Brokers: brokers, ClientID: "bondmate", Replication: cfg.KafkaReplication,
		Security: bus.Security{
			TLS: bool(cfg.KafkaTLS), CAFile: cfg.KafkaTLSCAFile, CertFile: cfg.KafkaTLSCertFile, KeyFile: cfg.KafkaTLSKeyFile,
			Mechanism: string(cfg.KafkaSASLMechanism), Username: cfg.KafkaSASLUsername,
			Password: cfg.KafkaSASLPassword, PasswordFile: cfg.KafkaSASLPasswordFile,
		},
	}, log)
}

// awaitBroker waits for a cluster that is starting up, until ctx ends. It does not wait
// for one that refuses this program: nothing but another environment helps then.
func awaitBroker(ctx context.Context, client *bus.Client) error {
	var last error
	for {
		err := client.Ping(ctx)
		if err == nil {
			return nil
		}
		// A timeout says less than what came before it, and the last one is made by ctx's end.
		if timeout, ok := errors.AsType[net.Error](err); last == nil || !ok || !timeout.Timeout() {
			last = err
		}
		if !bus.Retriable(err) {
			return fmt.Errorf("reach Kafka: %w", kafkaFault(err))
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("reach Kafka: %w", kafkaFault(last)), ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// kafkaFault names the variables behind an error of a connection's set-up.
func kafkaFault(err error) error {
	refused, ok := errors.AsType[*bus.SecurityError](err)
	if !ok {
		// A broker hangs up on who comes without what it demands, and says nothing.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("KAFKA_TLS or KAFKA_SASL_MECHANISM, if the broker demands them: %w", err)
		}
		return err
	}
	variables := map[bus.Step]string{
		bus.StepCA:          "KAFKA_TLS_CA_FILE",
		bus.StepCertificate: "KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE",
		bus.StepTLS:         "KAFKA_TLS, KAFKA_TLS_CA_FILE or KAFKA_TLS_CERT_FILE",
		bus.StepPassword:    "KAFKA_SASL_PASSWORD_FILE",
		bus.StepSASL:        "KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME or KAFKA_SASL_PASSWORD, or KAFKA_TLS",
	}
	return fmt.Errorf("%s: %w", variables[refused.Step], err)
}
