package main

import (
	"fmt"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/edge"
)

// origins are the web pages that may call: the listed ones and, while developing, what
// the developer's machine serves.
func origins(cfg config.Config) (edge.Origins, error) {
	listed, err := edge.ParseOrigins(cfg.CORSOrigins)
	if err != nil {
		return edge.Origins{}, fmt.Errorf("CORS_ORIGIN: %w", err)
	}
	if cfg.Env == config.Development {
		listed = listed.WithLoopback()
	}
	return listed, nil
}

// newEdge is what stands before the public port.
func (p *process) newEdge() (*edge.Edge, error) {
	allowed, err := origins(p.cfg)
	if err != nil {
		return nil, err
	}
	proxies, err := edge.ParseProxies(p.cfg.Proxies)
	if err != nil {
		return nil, fmt.Errorf("TRUSTED_PROXIES: %w", err)
	}
	return edge.New(edge.Config{
		Origins: allowed, Proxies: proxies,
		RedirectToHTTPS: bool(p.cfg.HTTPSRedirect), HSTS: p.cfg.Env == config.Production,
		Log: p.log, Registerer: p.registry,
	})
}
