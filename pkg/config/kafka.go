package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
)

// kafkaSecurity checks how the brokers are reached, as far as that shows without them.
func (c *checker) kafkaSecurity(cfg Config) {
	if len(cfg.KafkaBrokers) == 0 {
		const alone = "needs KAFKA_BROKERS: the broker inside the process listens on the loopback interface, without TLS or logins"
		if cfg.KafkaTLS {
			c.fault("KAFKA_TLS", alone)
		}
		if cfg.KafkaSASLMechanism != "" {
			c.fault("KAFKA_SASL_MECHANISM", alone)
		}
	}
	c.kafkaTLS(cfg)
	c.kafkaSASL(cfg)
}

func (c *checker) kafkaTLS(cfg Config) {
	files := []struct{ variable, file string }{
		{"KAFKA_TLS_CA_FILE", cfg.KafkaTLSCAFile}, {"KAFKA_TLS_CERT_FILE", cfg.KafkaTLSCertFile}, {"KAFKA_TLS_KEY_FILE", cfg.KafkaTLSKeyFile},
	}
	if !cfg.KafkaTLS {
		for _, f := range files {
			if f.file != "" {
				c.fault(f.variable, "needs KAFKA_TLS=on")
			}
		}
		return
	}
	if cfg.KafkaTLSCAFile != "" {
		pem, err := os.ReadFile(cfg.KafkaTLSCAFile)
		switch {
		case err != nil:
			c.fault("KAFKA_TLS_CA_FILE", "cannot be read: %v", err)
		case !x509.NewCertPool().AppendCertsFromPEM(pem):
			c.fault("KAFKA_TLS_CA_FILE", "%s holds no certificate in PEM", cfg.KafkaTLSCAFile)
		}
	}
	cert, key := cfg.KafkaTLSCertFile, cfg.KafkaTLSKeyFile
	switch {
	case cert == "" && key == "":
	case cert == "":
		c.fault("KAFKA_TLS_CERT_FILE", "is needed with KAFKA_TLS_KEY_FILE")
	case key == "":
		c.fault("KAFKA_TLS_KEY_FILE", "is needed with KAFKA_TLS_CERT_FILE")
	default:
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			c.fault("KAFKA_TLS_CERT_FILE", "makes no pair with KAFKA_TLS_KEY_FILE: %v", err)
		}
	}
}

func (c *checker) kafkaSASL(cfg Config) {
	given := []struct {
		variable string
		set      bool
	}{
		{"KAFKA_SASL_USERNAME", cfg.KafkaSASLUsername != ""},
		{"KAFKA_SASL_PASSWORD", cfg.KafkaSASLPassword != ""},
		{"KAFKA_SASL_PASSWORD_FILE", cfg.KafkaSASLPasswordFile != ""},
	}
	if cfg.KafkaSASLMechanism == "" {
		for _, g := range given {
			if g.set {
				c.fault(g.variable, "needs KAFKA_SASL_MECHANISM")
			}
		}
		return
	}
	if cfg.KafkaSASLMechanism == saslPlain && cfg.Env == Production && !bool(cfg.KafkaTLS) {
		c.fault("KAFKA_SASL_MECHANISM", refusedPlain)
	}
	if cfg.KafkaSASLUsername == "" {
		c.fault("KAFKA_SASL_USERNAME", "is needed with KAFKA_SASL_MECHANISM")
	}
	switch {
	case cfg.KafkaSASLPassword != "" && cfg.KafkaSASLPasswordFile != "":
		c.fault("KAFKA_SASL_PASSWORD_FILE", "is set together with KAFKA_SASL_PASSWORD: only one can hold")
	case cfg.KafkaSASLPassword != "":
	case cfg.KafkaSASLPasswordFile == "":
		c.fault("KAFKA_SASL_PASSWORD", "or KAFKA_SASL_PASSWORD_FILE is needed with KAFKA_SASL_MECHANISM")
	default:
		content, err := os.ReadFile(cfg.KafkaSASLPasswordFile)
		switch {
		case err != nil:
			c.fault("KAFKA_SASL_PASSWORD_FILE", "cannot be read: %v", err)
		case len(bytes.TrimRight(content, "\r\n")) == 0:
			c.fault("KAFKA_SASL_PASSWORD_FILE", "%s is empty", cfg.KafkaSASLPasswordFile)
		}
	}
}
