// Package webconsole is the operators' page at /ops and the cookie that its visitors have. The
// page is plain files without a build step; all that it shows and does are calls of /api/ops.
//
// What it guarantees, and on what that rests:
//
//   - The cookie is good for nothing but the page and its calls: it holds a token of its own
//     audience and type, which no other verifier takes, and no other token is taken here.
//   - No other page makes a browser use it: SameSite keeps it from other sites, and Check
//     refuses what comes from another origin of the same site, whatever the method.
//   - No script reads it (HttpOnly), no plain connection carries it in production (Secure, and
//     the prefix __Host-, with which browsers refuse it otherwise).
//   - It proves who has it, not that they still may: that is asked of the database for each
//     call, by whoever serves it.
//
// The package starts no goroutine. Everything is safe for concurrent use.
package webconsole

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"time"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
)

// Path is where the page is. Its files and the actions of its forms are below it.
const Path = "/ops"

//go:embed page.html signin.html
var pages embed.FS

//go:embed static
var static embed.FS

// policy allows what the pages are made of and nothing else: no inline script or style, no
// other origin, no frame around them, and no text that becomes markup in a script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Config configures a Console. All fields but Secure are required.
type Config struct {
	Keys   *identity.Keys
	Issuer string // of tokens; the audience and the type are the console's own
	Clock  func() time.Time
	// Secure: the cookie travels over HTTPS alone, even if a request did not. Without it that
	// depends on the request: browsers refuse secure cookies over plain HTTP.
	Secure bool
}

// Console serves the pages and reads the cookie.
type Console struct {
	issuer   *identity.Issuer
	verifier *identity.Verifier
	clock    func() time.Time
	secure   bool
	origin   *http.CrossOriginProtection
	pages    *template.Template
	files    map[string]http.Handler // by path
}

// audience is what tokens in the cookie are for.
const audience = "bondmate-console"

// rememberedTokens is far above the number of operators.
const rememberedTokens = 1000

// New returns a console.
func New(cfg Config) (*Console, error) {
	if cfg.Keys == nil || cfg.Issuer == "" || cfg.Clock == nil {
		return nil, errors.New("webconsole: keys, issuer and clock are required")
	}
	issuer, err := identity.NewIssuer(identity.IssuerConfig{
		Keys: cfg.Keys, Issuer: cfg.Issuer, Audience: audience, Type: identity.TypeConsole, TTL: cookieTTL, Clock: cfg.Clock,
	})
	if err != nil {
		return nil, err
	}
	verifier, err := identity.NewVerifier(identity.VerifierConfig{
		Keys: cfg.Keys, Issuer: cfg.Issuer, Audience: audience, Type: identity.TypeConsole, Clock: cfg.Clock, CacheSize: rememberedTokens,
	})
	if err != nil {
		return nil, err
	}
	c := &Console{issuer: issuer, verifier: verifier, clock: cfg.Clock, secure: cfg.Secure, origin: http.NewCrossOriginProtection()}
	if c.pages, err = template.ParseFS(pages, "*.html"); err != nil {
		return nil, fmt.Errorf("parse pages of the console: %w", err)
	}
	if c.files, err = files(); err != nil {
		return nil, err
	}
	return c, nil
}

// contentTypes do not depend on what the machine knows of extensions.
var contentTypes = map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

// files are the scripts and styles of the pages. They hold nothing that is not in the sources.
func files() (map[string]http.Handler, error) {
	entries, err := static.ReadDir("static")
	if err != nil {
		return nil, fmt.Errorf("list files of the console: %w", err)
	}
	served := make(map[string]http.Handler, len(entries))
	for _, entry := range entries {
		body, err := static.ReadFile("static/" + entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read file of the console: %w", err)
		}
		served[Path+"/static/"+entry.Name()] = edge.Static(edge.Page{
			ContentType: contentTypes[path.Ext(entry.Name())], Body: body, // asked for each time: a page and its script go together
		})
	}
	return served, nil
}

// File returns the handler of a file of the pages, or nil.
func (c *Console) File(path string) http.Handler { return c.files[path] }

// Visitor is whom the page is for.
type Visitor struct {
	Name string
	Role identity.Role
}

// CanAct reports whether the visitor may do more than look.
func (v Visitor) CanAct() bool { return v.Role >= identity.RoleAdmin }

// WritePage answers with the page.
func (c *Console) WritePage(w http.ResponseWriter, v Visitor) error {
	return c.write(w, http.StatusOK, "page.html", v)
}

// Notice is what the form to sign in says above its fields.
type Notice struct {
	Text  string
	Alarm bool // something went wrong
}

// WriteSignIn answers with the form to sign in.
func (c *Console) WriteSignIn(w http.ResponseWriter, status int, n Notice) error {
	return c.write(w, status, "signin.html", n)
}

func (c *Console) write(w http.ResponseWriter, status int, name string, data any) error {
	var page bytes.Buffer
	if err := c.pages.ExecuteTemplate(&page, name, data); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	Protect(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // the visitor left: nothing to tell
	return nil
}

// Protect sets the headers that a page has beside those of all answers.
func Protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Not no-referrer: with it browsers send forms with the origin "null", by which those
	// without Sec-Fetch-Site could not be told from another site's.
	h.Set("Referrer-Policy", "same-origin")
}
