package edge

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rs/cors"
)

// Origins is the allow list of web origins. The zero value admits none.
type Origins struct {
	any      bool
	loopback bool
	listed   []origin
}

// origin is one entry: scheme and host, which may begin with "*." for any subdomain.
type origin struct {
	scheme, host string
}

// ParseOrigins reads a list of origins such as https://app.example.com, patterns such as
// https://*.example.com (which has the bare domain not in it), and * for all of them.
func ParseOrigins(values []string) (Origins, error) {
	var o Origins
	for _, value := range values {
		if value == "*" {
			o.any = true
			continue
		}
		parsed, err := parseOrigin(value)
		if err != nil {
			return Origins{}, err
		}
		o.listed = append(o.listed, parsed)
	}
	return o, nil
}

// WithLoopback adds the pages that developers serve themselves: localhost at any port and
// with any scheme (native shells use their own).
func (o Origins) WithLoopback() Origins {
	o.loopback = true
	return o
}

func parseOrigin(s string) (origin, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return origin{}, fmt.Errorf("%q is not an origin such as https://app.example.com", s)
	case u.Scheme == "" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return origin{}, fmt.Errorf("%q is not an origin such as https://app.example.com", s)
	case strings.Contains(strings.TrimPrefix(u.Host, "*."), "*"):
		return origin{}, fmt.Errorf("%q: only a leading *. stands for subdomains", s)
	case strings.HasPrefix(u.Host, "*.") && !strings.Contains(u.Host[2:], "."):
		return origin{}, fmt.Errorf("%q admits a whole top-level domain", s)
	}
	return origin{scheme: strings.ToLower(u.Scheme), host: strings.ToLower(u.Host)}, nil
}

func (o origin) admits(scheme, host string) bool {
	if o.scheme != scheme {
		return false
	}
	if suffix, ok := strings.CutPrefix(o.host, "*"); ok {
		return strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	return o.host == host
}

// Admit reports whether a page of this origin, as browsers write it, may call.
func (o Origins) Admit(value string) bool {
	u, ok := readOrigin(value)
	if !ok {
		return false
	}
	if o.any || o.loopback && isLoopback(u.Hostname()) {
		return true
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	return slices.ContainsFunc(o.listed, func(l origin) bool { return l.admits(scheme, host) })
}

// readOrigin reads an origin as browsers write it: a scheme and a host, and nothing more.
func readOrigin(value string) (*url.URL, bool) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || strings.ContainsAny(value, " ,") {
		return nil, false
	}
	return u, strings.EqualFold(value, u.Scheme+"://"+u.Host)
}

// AdmitRequest is Admit for a request's Origin header. A request without one is not from a
// web page, and a page of this server may call it.
func (o Origins) AdmitRequest(r *http.Request) bool {
	values := r.Header.Values("Origin")
	switch len(values) {
	case 0:
		return true
	case 1:
		return SameOrigin(r, values[0]) || o.Admit(values[0])
	default:
		return false
	}
}

// SameOrigin reports whether an origin is where the request itself was sent to.
func SameOrigin(r *http.Request, value string) bool {
	u, ok := readOrigin(value)
	return ok && strings.EqualFold(u.Host, r.Host) && (u.Scheme == "https") == ClientOf(r).HTTPS
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// preflightFor is how long browsers may keep the answer to a preflight; they cut it
// themselves (Chromium at 2 h).
const preflightFor = 24 * time.Hour

// crossOrigin answers preflights and says to browsers which pages may read. Refusals are
// counted and logged: they are an attack, or a web app that nobody put on the list.
func (e *Edge) crossOrigin(next http.Handler) http.Handler {
	shared := cors.New(cors.Options{
		AllowOriginFunc: e.cfg.Origins.Admit,
		AllowedMethods:  []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{ // not X-API-Key: what a page knows, everybody who opens it does
			"Authorization", "Content-Type", "Prefer", "Idempotency-Key", "If-None-Match", "X-Request-Id", "X-App-Version", "traceparent",
		},
		ExposedHeaders: []string{
			"Location", "Preference-Applied", "Idempotency-Replayed", "Retry-After", "X-Request-Id", "Allow", "ETag",
			"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy",
			"Deprecation", "Sunset", "Link",
		},
		MaxAge: int(preflightFor.Seconds()),
		// Credentials for every page there is would let any of them act for its visitor.
		AllowCredentials: !e.cfg.Origins.any,
	}).Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.cfg.Origins.AdmitRequest(r) {
			kind := "request"
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				kind = "preflight"
			}
			e.refused.WithLabelValues(kind).Inc()
			e.cfg.Log.WarnContext(r.Context(), "origin refused", "kind", kind, "origin", clip(r.Header.Get("Origin")), "method", r.Method)
		}
		shared.ServeHTTP(w, r)
	})
}

// clip keeps a stranger's header from filling the log.
func clip(s string) string { return s[:min(len(s), 200)] }
