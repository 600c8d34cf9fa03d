package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bondmate/backend/pkg/certificate"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/service"
)

// reservedFiles are the descriptors that are kept for all else: the pool, the brokers, logs.
const reservedFiles = 500

// addHTTP serves the public port and returns where this machine reaches it.
func (p *process) addHTTP(ctx context.Context, handler http.Handler) (string, error) {
	server, err := service.Listen(ctx, net.JoinHostPort("", strconv.Itoa(p.cfg.Port)), handler, p.log)
	if err != nil {
		return "", fmt.Errorf("HTTP server (PORT): %w", err)
	}
	p.onClose(func() { _ = server.Close() }) // closed already once it has run
	open := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bondmate_http_open_connections", Help: "Open connections of the public port; sockets are counted apart.",
	})
	p.registry.MustRegister(open)
	server.CountConnections(open)
	bound, err := p.connectionBound()
	if err != nil {
		return "", err
	}
	server.BoundConnections(bound)
	p.ownURL = loopbackURL(server.Addr())
	if p.cfg.OwnTLS() {
		if err := p.addTLS(ctx, server, bound); err != nil {
			return "", err
		}
		p.ownURL = "https://" + p.ownURL[len("http://"):]
	}
	p.group.Add(service.Member{Name: "http server", Phase: service.Intake, Run: server.Run})
	return p.ownURL, nil
}

// connectionBound is what the environment allows, and the descriptors of this process.
func (p *process) connectionBound() (service.ConnectionBound, error) {
	proxies, err := edge.ParseProxies(p.cfg.Proxies)
	if err != nil {
		return service.ConnectionBound{}, fmt.Errorf("TRUSTED_PROXIES: %w", err)
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bondmate_http_connections_refused_total", Help: "Connections that were closed at once, by the bound that they were beyond: total or client.",
	}, []string{"reason"})
	p.registry.MustRegister(refused)
	total := p.cfg.MaxConnections
	var files syscall.Rlimit // the soft limit is the hard one already: Go raises it
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		if room := int(min(files.Cur, 1<<30)) - reservedFiles; total == 0 || total > room {
			p.log.Warn("fewer connections than MAX_CONNECTIONS: the system allows this process too few open files",
				"connections", max(room, 1), "open_files", files.Cur)
			total = max(room, 1)
		}
	}
	return service.ConnectionBound{
		Total: total, PerClient: p.cfg.ConnectionsPerClient(), Exempt: proxies.Vouch, Refused: refused,
	}, nil
}

// addTLS gives the server its certificate and, with HTTP_PORT, a second one beside it for
// who comes in the clear.
func (p *process) addTLS(ctx context.Context, server *service.Server, bound service.ConnectionBound) error {
	secure, plain, watch, err := p.certificates(edge.ToHTTPS(server.Addr().Port, p.log))
	if err != nil {
		return err
	}
	server.UseTLS(secure)
	p.group.Add(service.Member{Name: "certificate", Phase: service.Support, Run: watch})
	if p.cfg.HTTPPort == nil {
		return nil
	}
	beside, err := service.Listen(ctx, net.JoinHostPort("", strconv.Itoa(*p.cfg.HTTPPort)), plain, p.log)
	if err != nil {
		return fmt.Errorf("HTTP server (HTTP_PORT): %w", err)
	}
	p.onClose(func() { _ = beside.Close() }) // closed already once it has run
	beside.BoundConnections(bound)
	p.group.Add(service.Member{Name: "plain http server", Phase: service.Intake, Run: beside.Run})
	p.log.Info("plain HTTP is sent to HTTPS", "port", beside.Addr().Port)
	return nil
}

// certificates returns the settings of the public port, what to serve in the clear, and what
// looks after the certificate.
func (p *process) certificates(redirect http.Handler) (*tls.Config, http.Handler, func(context.Context) error, error) {
	log := p.log.With("part", "certificate")
	if p.cfg.TLSCertFile != "" {
		files, err := certificate.LoadFiles(certificate.FilesConfig{
			CertFile: p.cfg.TLSCertFile, KeyFile: p.cfg.TLSKeyFile, Log: log, Registerer: p.registry, Clock: p.clock,
		})
		if err != nil {
			return nil, nil, nil, fmt.Errorf("TLS_CERT_FILE: %w", err)
		}
		return files.TLS(), redirect, files.Run, nil
	}
	acme, err := certificate.NewACME(certificate.ACMEConfig{
		Domains: p.cfg.TLSACMEDomains, Email: p.cfg.TLSACMEEmail, Dir: p.cfg.ACMEDir(),
		Directory: p.cfg.TLSACMEDirectory, CAFile: p.cfg.TLSACMECAFile, Log: log, Registerer: p.registry, Clock: p.clock,
	})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("TLS_ACME_DOMAINS: %w", err)
	}
	if p.cfg.HTTPPort != nil {
		redirect = acme.Challenges(redirect)
	}
	return acme.TLS(), redirect, acme.Run, nil
}
