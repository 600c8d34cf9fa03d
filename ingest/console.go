package ingest

import (
	"context"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/ingest/webconsole"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// The operators' page. It is no part of the OpenAPI document: browsers ask for it and send
// its forms, and all that it shows are calls of the document's operations under /api/ops.

// maxSignIn bounds the form, in bytes: an e-mail address and a password, each byte escaped.
const maxSignIn = 8 << 10

// consolePath reports whether a path is the page's.
func consolePath(path string) bool {
	return path == webconsole.Path || strings.HasPrefix(path, webconsole.Path+"/")
}

// serveConsole answers for the page, its files and its forms.
func (s *Server) serveConsole(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	x.route = webconsole.Path // one label for all of it
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), accountTimeout)
	defer cancel()
	r = r.WithContext(ctx)
	serve := map[string]func(http.ResponseWriter, *http.Request) error{
		webconsole.Path: s.consolePage, webconsole.Path + "/login": s.consoleLogin, webconsole.Path + "/logout": s.consoleLogout,
	}[r.URL.Path]
	allowed := []string{http.MethodGet, http.MethodHead}
	switch {
	case serve == nil:
		file := s.console.File(r.URL.Path)
		if file == nil {
			s.writeProblem(w, r, noSuchPath())
			return
		}
		serve = func(w http.ResponseWriter, r *http.Request) error {
			webconsole.Protect(w.Header())
			file.ServeHTTP(w, r)
			return nil
		}
	case r.URL.Path != webconsole.Path:
		allowed = []string{http.MethodPost}
	}
	if r.Method != allowed[0] && r.Method != allowed[len(allowed)-1] {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		s.writeProblem(w, r, methodNotAllowed())
		return
	}
	if r.Method == http.MethodPost {
		if err := s.sameOrigin(r); err != nil {
			s.writeProblem(w, r, err)
			return
		}
	}
	if err := serve(w, r); err != nil {
		s.writeProblem(w, r, err)
	}
}

// sameOrigin refuses what another page made a browser send. That is an attack, or a proxy
// that changes Host.
func (s *Server) sameOrigin(r *http.Request) error {
	err := s.console.Check(r)
	if err != nil {
		s.log.WarnContext(r.Context(), "cross-origin call refused", slog.String("method", r.Method),
			slog.String("route", exchangeOf(r.Context()).route), slog.String("client", edge.ClientOf(r).String()))
	}
	return err
}

// consolePage shows the page to operators, and the form to sign in to everybody else. Who
// calls with an access token is told in a problem what is wrong with it.
func (s *Server) consolePage(w http.ResponseWriter, r *http.Request) error {
	var caller identity.Identity
	var err error
	byToken := len(r.Header.Values("Authorization")) > 0
	if byToken {
		caller, err = s.authenticate(r, false)
	} else {
		caller, err = s.console.Read(r)
	}
	var admitted context.Context
	if err == nil {
		exchangeOf(r.Context()).caller = caller
		admitted, err = s.admin.Admit(r.Context(), admin.Page(), caller.SessionID, actorIn(r, caller))
	}
	if err != nil {
		if byToken || !refusal(err) {
			return err
		}
		return s.askToSignIn(w, r, err)
	}
	profile, err := s.accounts.Profile(r.Context(), caller.UserID)
	if err != nil {
		return err
	}
	if !byToken {
		if err := s.console.Renew(w, r, caller); err != nil {
			return err
		}
	}
	return s.console.WritePage(w, webconsole.Visitor{Name: profile.DisplayName, Role: admin.RoleOf(admitted)})
}

// askToSignIn answers who has no cookie, or none that is good any more.
func (s *Server) askToSignIn(w http.ResponseWriter, r *http.Request, cause error) error {
	x := exchangeOf(r.Context())
	x.code, x.cause = "unauthenticated", cause
	var notice webconsole.Notice
	if s.console.Holds(r) {
		notice.Text = "You have been signed out. Sign in again to go on."
		s.console.Clear(w, r)
	}
	setRefusalHeaders(w.Header(), fault.New(fault.Unauthenticated, "unauthenticated", ""))
	return s.console.WriteSignIn(w, http.StatusUnauthorized, notice)
}

// refusal reports whether an error says something of who asks, and not of the service.
func refusal(err error) bool {
	kind := fault.KindOf(err)
	return kind == fault.Unauthenticated || kind == fault.Forbidden
}

// consoleLogin begins a session from the form's fields. What is refused is said above the
// form, in the words of the API's login.
func (s *Server) consoleLogin(w http.ResponseWriter, r *http.Request) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return fault.New(fault.Invalid, "unsupported_media_type", "Send a form (application/x-www-form-urlencoded).")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxSignIn)
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return fault.Wrap(err, fault.Invalid, "payload_too_large", "The form is too large.")
		}
		return fault.Wrap(err, fault.Invalid, "invalid_request", "The form cannot be read.")
	}
	who, err := s.accounts.OperatorLogin(r.Context(), accounts.LoginInput{
		Email: r.PostForm.Get("email"), Password: r.PostForm.Get("password"),
		Device: &accounts.Device{Name: "Operators' console", Platform: "web"}, Address: edge.ClientOf(r).Addr,
	})
	if err != nil {
		return s.refuseLogin(w, r, err)
	}
	line := journal.Entry{Actor: who.UserID, Action: "ops.login", Severity: partner.SeverityNotice, Subject: who.SessionID}
	if _, err := s.record(r.Context(), line, nothing); err != nil {
		return err
	}
	exchangeOf(r.Context()).caller = identity.Identity{UserID: who.UserID}
	claims := identity.Claims{UserID: who.UserID, SessionID: who.SessionID, Role: who.Role}
	if err := s.console.Grant(w, r, claims); err != nil {
		return err
	}
	toConsole(w)
	return nil
}

// refuseLogin shows the form again. Who knows the password of an account that is no
// operator's leaves a line in the activity log, and is told what everybody is told.
func (s *Server) refuseLogin(w http.ResponseWriter, r *http.Request, err error) error {
	if turnedAway, ok := errors.AsType[*accounts.TurnedAwayError](err); ok {
		line := journal.Entry{Actor: turnedAway.UserID, Action: "ops.login", Severity: partner.SeverityWarning, Code: "forbidden"}
		if _, err := s.record(r.Context(), line, nothing); err != nil {
			return err
		}
	}
	err = s.refused(r.Context(), uuid.Nil, err)
	f := asFault(err)
	x := exchangeOf(r.Context())
	x.code, x.cause = f.Code, err
	setRefusalHeaders(w.Header(), f)
	return s.console.WriteSignIn(w, statusOf(f), webconsole.Notice{Text: f.Detail, Alarm: true})
}

// consoleLogout ends the session. The cookie goes in any case: who leaves must not stay
// signed in because the database is away.
func (s *Server) consoleLogout(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.console.Read(r)
	s.console.Clear(w, r)
	if err == nil {
		exchangeOf(r.Context()).caller = caller
		if err := s.accounts.Logout(r.Context(), caller.UserID, caller.SessionID); err != nil {
			return err
		}
	}
	toConsole(w)
	return nil
}

// toConsole sends a browser that has sent a form to the page.
func toConsole(w http.ResponseWriter) {
	w.Header().Set("Location", webconsole.Path)
	w.WriteHeader(http.StatusSeeOther)
}

// cookieCounts reports whether the page's cookie says who calls an operation: under /api/ops
// alone, and only when nothing else does.
func (s *Server) cookieCounts(r *http.Request) bool {
	return s.console != nil && strings.HasPrefix(exchangeOf(r.Context()).route, "/api/ops/") &&
		len(r.Header.Values("Authorization")) == 0 && s.console.Holds(r)
}

func (s *Server) provenByCookie(r *http.Request) (identity.Identity, error) {
	if err := s.sameOrigin(r); err != nil {
		return identity.Identity{}, err
	}
	exchangeOf(r.Context()).cookie = true
	return s.console.Read(r)
}

// renewCookie follows a call that was let through.
func (s *Server) renewCookie(w http.ResponseWriter, r *http.Request) error {
	x := exchangeOf(r.Context())
	if !x.cookie {
		return nil
	}
	return s.console.Renew(w, r, x.caller)
}
