package bus

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// The mechanisms of SASL.
const (
	Plain       = "PLAIN" // the password itself is sent
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// Security says how connections are protected and who this is. The zero value is neither.
// Files are read for each connection: a certificate or password that is replaced in
// its file holds from the next connection on.
type Security struct {
	TLS      bool   // every connection, to the name or address that the broker advertises
	CAFile   string // PEM, trusted instead of the system's authorities
	CertFile string // PEM, the client's certificate; with KeyFile
	KeyFile  string // PEM

	Mechanism    string // of SASL; empty for none
	Username     string
	Password     string
	PasswordFile string // read when Password is empty, without the line's end
}

// enabled says whether a connection needs more than TCP.
func (s Security) enabled() bool { return s.TLS || s.Mechanism != "" }

// Step is a part of a connection's set-up.
type Step string

// The steps.
const (
	StepCA          Step = "read CA file"
	StepCertificate Step = "read client certificate"
	StepTLS         Step = "TLS handshake"
	StepPassword    Step = "read password file"
	StepSASL        Step = "SASL"
)

// SecurityError says at which step a connection was not let in. Nothing was sent on it.
type SecurityError struct {
	Addr string
	Step Step
	Err  error
}

// Error never holds a password.
func (e *SecurityError) Error() string { return fmt.Sprintf("%s with %s: %v", e.Step, e.Addr, e.Err) }

// Unwrap returns the cause.
func (e *SecurityError) Unwrap() error { return e.Err }

// final says whether the other side, or this one, refused for good: a broker that shuts
// down closes connections as well, and that passes.
func (e *SecurityError) final() bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](e.Err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](e.Err); ok {
		return true
	}
	if refusedTLS(e.Err) {
		return true
	}
	code, ok := errors.AsType[kafka.Error](e.Err)
	return ok && permanent(code)
}

// refusedTLS says whether the other side ended TLS with an alert. crypto/tls tells it so.
func refusedTLS(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// secure brings a connection to where requests may be sent. It is the only way
// by which a Client gets connections, so none is without protection. ctx bounds all of it:
// kafka-go's own exchange of SASL has no deadline.
func (s Security) secure(ctx context.Context, conn net.Conn, address, clientID string) (net.Conn, error) {
	if !s.enabled() {
		return conn, nil
	}
	fail := func(step Step, err error) (net.Conn, error) {
		conn.Close()
		if cause := ctx.Err(); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return nil, &SecurityError{Addr: address, Step: step, Err: err}
	}
	if s.TLS {
		cfg, step, err := s.tlsConfig(address)
		if err != nil {
			return fail(step, err)
		}
		over := tls.Client(conn, cfg)
		if err := over.HandshakeContext(ctx); err != nil {
			return fail(StepTLS, err)
		}
		conn = over
	}
	if s.Mechanism == "" {
		// In TLS 1.3 the broker's verdict on our certificate, or on its lack, comes no
		// earlier than its first answer: so ask for one here.
		kc := protocol.NewConn(conn, clientID)
		if err := exchange(ctx, conn, func() error { _, err := kc.RoundTrip(&apiversions.Request{}); return err }); err != nil {
			return fail(StepTLS, err)
		}
		return conn, nil
	}
	mechanism, step, err := s.mechanism()
	if err != nil {
		return fail(step, err)
	}
	kc := protocol.NewConn(conn, clientID)
	if err := exchange(ctx, conn, func() error { return authenticate(ctx, kc, mechanism) }); err != nil {
		if refusedTLS(err) {
			return fail(StepTLS, err)
		}
		return fail(StepSASL, fmt.Errorf("%s as %q: %w", s.Mechanism, s.Username, err))
	}
	return conn, nil
}

func (s Security) tlsConfig(address string) (*tls.Config, Step, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, StepTLS, fmt.Errorf("split address: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, StepCA, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, StepCA, fmt.Errorf("%s holds no certificate", s.CAFile)
		}
	}
	if s.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, StepCertificate, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, "", nil
}

func (s Security) mechanism() (sasl.Mechanism, Step, error) {
	password := s.Password
	if password == "" && s.PasswordFile != "" {
		content, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return nil, StepPassword, err
		}
		password = string(bytes.TrimRight(content, "\r\n"))
	}
	var made sasl.Mechanism
	var err error
	switch s.Mechanism {
	case Plain:
		made = plain.Mechanism{Username: s.Username, Password: password}
	case ScramSHA256:
		made, err = scram.Mechanism(scram.SHA256, s.Username, password)
	case ScramSHA512:
		made, err = scram.Mechanism(scram.SHA512, s.Username, password)
	default:
		err = fmt.Errorf("%q: %w", s.Mechanism, kafka.UnsupportedSASLMechanism)
	}
	return made, StepSASL, err
}

// exchange runs a conversation on a connection within ctx. Every answer is read to its
// end, so that nothing of it is left for who uses the connection next.
func exchange(ctx context.Context, conn net.Conn, talk func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := talk()
	if !stop() && err == nil {
		err = ctx.Err() // the connection has its deadline behind it
	}
	return err
}

// authenticate logs in on a connection on which nothing has been asked yet.
func authenticate(ctx context.Context, kc *protocol.Conn, mechanism sasl.Mechanism) error {
	// Brokers since Kafka 1.0 speak these; with the first version of the handshake a
	// refusal would be a closed connection without a reason.
	kc.SetVersions(map[protocol.ApiKey]int16{protocol.SaslHandshake: 1, protocol.SaslAuthenticate: 0})

	res, err := kc.RoundTrip(&saslhandshake.Request{Mechanism: mechanism.Name()})
	if err != nil {
		return err
	}
	shake := res.(*saslhandshake.Response)
	if shake.ErrorCode != 0 {
		return fmt.Errorf("the broker offers %v: %w", shake.Mechanisms, kafka.Error(shake.ErrorCode))
	}
	session, token, err := mechanism.Start(ctx)
	if err != nil {
		return err
	}
	for done := false; !done; {
		res, err := kc.RoundTrip(&saslauthenticate.Request{AuthBytes: token})
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the broker closed the connection, as some do on a wrong name or password: %w", err)
		}
		if err != nil {
			return err
		}
		answer := res.(*saslauthenticate.Response)
		if answer.ErrorCode != 0 {
			// The broker's text is left out: it is the broker's to say what is in it.
			return kafka.Error(answer.ErrorCode)
		}
		if done, token, err = session.Next(ctx, answer.AuthBytes); err != nil {
			return err
		}
	}
	return nil
}
