package edge

import (
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"github.com/unrolled/secure"
)

// year is how long browsers remember to come over HTTPS: what preload lists ask for.
const year = 365 * 24 * 60 * 60

// documentPolicy is for answers that are no pages: a browser that shows one as a page runs
// and loads nothing. Pages set a policy of their own over it.
const documentPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func securityHeaders(hsts bool) *secure.Secure {
	o := secure.Options{
		FrameDeny:               true,
		ContentTypeNosniff:      true,
		ReferrerPolicy:          "no-referrer",
		ContentSecurityPolicy:   documentPolicy,
		PermissionsPolicy:       "camera=(), geolocation=(), microphone=(), payment=()",
		CrossOriginOpenerPolicy: "same-origin",
		// Whether a request came over HTTPS is known already; the library would believe headers.
		ForceSTSHeader: true,
	}
	if hsts {
		o.STSSeconds, o.STSIncludeSubdomains, o.STSPreload = year, true, true
	}
	return secure.New(o)
}

// secured sets the headers before the handler runs, so that it can set others.
func (e *Edge) secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := e.headers.Process(w, r); err != nil {
			return // it has answered; with these options it never does
		}
		h := w.Header()
		if !ClientOf(r).HTTPS {
			h.Del("Strict-Transport-Security") // over HTTP browsers must ignore it
		}
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// redirect sends who came over plain HTTP to HTTPS. 308 keeps method and body: an app with
// an old address goes on working. The probes come from inside, past the proxy.
func (e *Edge) redirect(next http.Handler) http.Handler {
	if !e.cfg.RedirectToHTTPS {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ClientOf(r).HTTPS || probe(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		sendToHTTPS(w, r, e.cfg.Log, r.Host)
	})
}

// ToHTTPS is all that a plain port does beside one with TLS: it sends everybody there. Who
// named no port came to 80, which the TLS port's 443 belongs to; who named one, came past
// what maps those.
func ToHTTPS(port int, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if host == "" { // HTTP/1.0: there is no telling where it meant to go
			http.Error(w, "421 Misdirected Request", http.StatusMisdirectedRequest)
			return
		}
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = net.JoinHostPort(name, strconv.Itoa(port))
		}
		sendToHTTPS(w, r, log, host)
	})
}

func sendToHTTPS(w http.ResponseWriter, r *http.Request, log *slog.Logger, host string) {
	log.InfoContext(r.Context(), "redirected to https", "method", r.Method, "host", clip(r.Host))
	w.Header().Set("Cache-Control", "no-store")
	to := "https://" + host + r.URL.RequestURI()
	http.Redirect(w, r, to, http.StatusPermanentRedirect) // #nosec G710 -- to the host that was asked, and no cache keeps it
}

func probe(path string) bool {
	switch path {
	case "/live", "/ready", "/health", "/api/health":
		return true
	}
	return false
}
