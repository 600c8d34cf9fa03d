package webconsole

import (
	"net/http"
	"time"

	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
)

const (
	// cookieTTL is how long who does nothing stays signed in.
	cookieTTL = 15 * time.Minute
	// renewAfter spares most calls of a busy visitor a signature.
	renewAfter = time.Minute

	cookieName = "bondmate-ops"
	// securePrefix has browsers take the cookie from this host alone, over HTTPS, for all of
	// its paths: no other host of the domain can plant one.
	securePrefix = "__Host-"
)

// isSecure reports whether the cookie of a request's connection is the secure one.
func (c *Console) isSecure(r *http.Request) bool { return c.secure || edge.ClientOf(r).HTTPS }

func (c *Console) name(r *http.Request) string {
	if c.isSecure(r) {
		return securePrefix + cookieName
	}
	return cookieName
}

// cookie returns the request's cookie with a value; an age below zero takes it away.
func (c *Console) cookie(r *http.Request, value string, age int) *http.Cookie {
	return &http.Cookie{ // #nosec G124 -- not secure only where a browser would refuse it: over plain HTTP, outside production
		Name: c.name(r), Value: value, Path: "/", MaxAge: age,
		Secure: c.isSecure(r), HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
}

// Holds reports whether a request comes with the cookie.
func (c *Console) Holds(r *http.Request) bool {
	_, err := r.Cookie(c.name(r))
	return err == nil
}

// Read returns whom the request's cookie speaks for. It says nothing of the session. Every
// failure is the fault unauthenticated, or token_expired.
func (c *Console) Read(r *http.Request) (identity.Identity, error) {
	cookie, err := r.Cookie(c.name(r))
	if err != nil {
		return identity.Identity{}, fault.New(fault.Unauthenticated, "unauthenticated", "Sign in first.")
	}
	return c.verifier.Verify(r.Context(), cookie.Value)
}

// Grant gives the answer to a request a cookie for a session that has begun.
func (c *Console) Grant(w http.ResponseWriter, r *http.Request, of identity.Claims) error {
	token, _, err := c.issuer.Issue(of)
	if err != nil {
		return err
	}
	http.SetCookie(w, c.cookie(r, token, int(cookieTTL.Seconds())))
	return nil
}

// Renew replaces a cookie that has been used for a while, so that it ends only when it is not
// used. The session's own end stays: what counts is that it is asked for.
func (c *Console) Renew(w http.ResponseWriter, r *http.Request, who identity.Identity) error {
	if who.ExpiresAt.Sub(c.clock()) > cookieTTL-renewAfter {
		return nil
	}
	return c.Grant(w, r, identity.Claims{UserID: who.UserID, SessionID: who.SessionID, Role: who.Role})
}

// Clear takes the cookie away.
func (c *Console) Clear(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, c.cookie(r, "", -1))
}

// Check refuses a request that a page of another origin made a browser send: by
// Sec-Fetch-Site, or, from a browser without it, by Origin. A request with neither is from no
// browser. Unlike the rule of http.CrossOriginProtection it holds for reading, too: the pages
// on the allow list of the API may read answers, and those of the same site would be sent the
// cookie.
func (c *Console) Check(r *http.Request) error {
	strict := *r
	strict.Method = http.MethodPost // the rule lets GET and HEAD pass unseen
	if err := c.origin.Check(&strict); err != nil {
		return fault.Wrap(err, fault.Forbidden, "forbidden", "Another web page has sent this. Nothing was done.")
	}
	return nil
}
