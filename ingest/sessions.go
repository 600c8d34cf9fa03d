package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/journal"
	"github.com/bondmate/backend/pkg/edge"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// accountTimeout bounds a call into accounts, the wait for a pooled connection included:
// with the database away the answer is a 503 within it.
const accountTimeout = 3 * time.Second

// Register implements POST /api/auth/register.
func (s *Server) Register(ctx context.Context, req api.RegisterRequestObject) (api.RegisterResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	in := accounts.RegisterInput{
		Email: req.Body.Email, Password: req.Body.Password, DisplayName: req.Body.DisplayName,
		Device: deviceOf(req.Body.Device),
	}
	if req.Body.BirthDate != nil {
		in.BirthDate = &req.Body.BirthDate.Time
	}
	if req.Body.Consent != nil {
		in.Consent = req.Body.Consent.Version
	}
	result, err := s.accounts.Register(ctx, in)
	if err != nil {
		return nil, err
	}
	return api.Register201JSONResponse(loginOf(result)), nil
}

// Login implements POST /api/auth/login.
func (s *Server) Login(ctx context.Context, req api.LoginRequestObject) (api.LoginResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	result, err := s.accounts.Login(ctx, accounts.LoginInput{
		Email: req.Body.Email, Password: req.Body.Password, Device: deviceOf(req.Body.Device), Address: clientAddress(ctx),
	})
	if err != nil {
		return nil, s.refused(ctx, uuid.Nil, err)
	}
	in := journal.Entry{Actor: result.User.ID, Action: "auth.login", Severity: partner.SeverityInfo, Subject: result.SessionID}
	if _, err := s.record(ctx, in, nothing); err != nil {
		return nil, err
	}
	return api.Login200JSONResponse(loginOf(result)), nil
}

// LoginWithFirebase implements POST /api/auth/firebase.
func (s *Server) LoginWithFirebase(ctx context.Context, req api.LoginWithFirebaseRequestObject) (api.LoginWithFirebaseResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	in := accounts.FirebaseInput{IDToken: req.Body.IdToken, Device: deviceOf(req.Body.Device), Address: clientAddress(ctx)}
	if req.Body.DisplayName != nil {
		in.DisplayName = *req.Body.DisplayName
	}
	if req.Body.BirthDate != nil {
		in.BirthDate = &req.Body.BirthDate.Time
	}
	if req.Body.Consent != nil {
		in.Consent = req.Body.Consent.Version
	}
	result, err := s.accounts.LoginFirebase(ctx, in)
	if err != nil {
		return nil, s.refused(ctx, uuid.Nil, err)
	}
	line := journal.Entry{Actor: result.User.ID, Action: "auth.login", Severity: partner.SeverityInfo, Subject: result.SessionID}
	line.Metadata = map[string]string{"by": "firebase", "provider": result.Provider}
	switch {
	case result.Created:
		line.Metadata["account"] = "created"
	case result.Linked: // from now on there is one more way in
		line.Metadata["account"], line.Severity = "linked", partner.SeverityNotice
	}
	if _, err := s.record(ctx, line, nothing); err != nil {
		return nil, err
	}
	return api.LoginWithFirebase200JSONResponse(loginOf(result.AuthResult)), nil
}

// refused takes down that too many wrong passwords have led to a wait, once when it begins. Who
// tries to log in is nobody that is known (actor is zero), whether the account exists or not.
func (s *Server) refused(ctx context.Context, actor uuid.UUID, err error) error {
	if _, ok := errors.AsType[*accounts.LastFreeError](err); !ok {
		return err
	}
	if _, recordErr := s.record(ctx, journal.Entry{Actor: actor, Action: "auth.refused", Severity: partner.SeverityWarning, Code: "rate_limited"}, nothing); recordErr != nil {
		return errors.Join(recordErr, err)
	}
	return err
}

func clientAddress(ctx context.Context) netip.Addr {
	return edge.ClientOf(exchangeOf(ctx).request).Addr
}

// Refresh implements POST /api/auth/refresh.
func (s *Server) Refresh(ctx context.Context, req api.RefreshRequestObject) (api.RefreshResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	replayed := journal.Entry{Action: "auth.replayed", Severity: partner.SeverityWarning}
	result, err := s.accounts.Refresh(ctx, req.Body.RefreshToken, func(ctx context.Context, tx pgx.Tx, userID, sessionID uuid.UUID) error {
		replayed.Subject = sessionID
		return s.note(&replayed)(ctx, tx, userID)
	})
	if _, ok := errors.AsType[*accounts.ReplayError](err); ok {
		s.metrics.replays.Inc()
		journal.Say(ctx, s.log, replayed)
	}
	if err != nil {
		return nil, err
	}
	return api.Refresh200JSONResponse(loginOf(result)), nil
}

// Logout implements POST /api/auth/logout.
func (s *Server) Logout(ctx context.Context, _ api.LogoutRequestObject) (api.LogoutResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	if err := s.accounts.Logout(ctx, caller.UserID, caller.SessionID); err != nil {
		return nil, err
	}
	return api.Logout204Response{}, nil
}

// LogoutAll implements POST /api/auth/logout-all.
func (s *Server) LogoutAll(ctx context.Context, _ api.LogoutAllRequestObject) (api.LogoutAllResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	if err := s.accounts.LogoutAll(ctx, caller.UserID); err != nil {
		return nil, err
	}
	return api.LogoutAll204Response{}, nil
}

// ChangePassword implements POST /api/auth/password.
func (s *Server) ChangePassword(ctx context.Context, req api.ChangePasswordRequestObject) (api.ChangePasswordResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	err := s.accounts.ChangePassword(ctx, accounts.PasswordChange{
		UserID: caller.UserID, SessionID: caller.SessionID, Current: req.Body.Current, Next: req.Body.Next, Address: clientAddress(ctx),
	})
	if err != nil {
		return nil, s.refused(ctx, caller.UserID, err)
	}
	return api.ChangePassword204Response{}, nil
}

// ForgotPassword implements POST /api/auth/password/forgot.
func (s *Server) ForgotPassword(_ context.Context, req api.ForgotPasswordRequestObject) (api.ForgotPasswordResponseObject, error) {
	if err := s.accounts.Forgot(req.Body.Email); err != nil {
		return nil, err
	}
	return api.ForgotPassword202Response{}, nil
}

// ResetPassword implements POST /api/auth/password/reset.
func (s *Server) ResetPassword(ctx context.Context, req api.ResetPasswordRequestObject) (api.ResetPasswordResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	done := journal.Entry{Action: "auth.password.reset", Severity: partner.SeverityNotice}
	err := s.accounts.ResetPassword(ctx, accounts.ResetInput{Token: req.Body.Token, Next: req.Body.Next, Note: s.note(&done)})
	if err != nil {
		return nil, err
	}
	journal.Say(ctx, s.log, done)
	return api.ResetPassword204Response{}, nil
}

// VerifyEmail implements POST /api/auth/email/verify.
func (s *Server) VerifyEmail(ctx context.Context, req api.VerifyEmailRequestObject) (api.VerifyEmailResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	done := journal.Entry{Action: "auth.email.verify", Severity: partner.SeverityInfo}
	if err := s.accounts.VerifyEmail(ctx, req.Body.Token, s.note(&done)); err != nil {
		return nil, err
	}
	journal.Say(ctx, s.log, done)
	return api.VerifyEmail204Response{}, nil
}

// ListSessions implements GET /api/auth/sessions.
func (s *Server) ListSessions(ctx context.Context, _ api.ListSessionsRequestObject) (api.ListSessionsResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	list, err := s.accounts.Sessions(ctx, caller.UserID, caller.SessionID)
	if err != nil {
		return nil, err
	}
	return api.ListSessions200JSONResponse{Sessions: sessionsOf(list)}, nil
}

// EndSession implements DELETE /api/auth/sessions/{id}.
func (s *Server) EndSession(ctx context.Context, req api.EndSessionRequestObject) (api.EndSessionResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	if err := s.accounts.RevokeSession(ctx, caller.UserID, req.Id); err != nil {
		return nil, err
	}
	return api.EndSession204Response{}, nil
}

// Jwks implements GET /.well-known/jwks.json.
func (s *Server) Jwks(context.Context, api.JwksRequestObject) (api.JwksResponseObject, error) {
	keys := s.keys.JWKS().Keys
	keep := fmt.Sprintf("public, max-age=%d", int(identity.JWKSMaxAge.Seconds()))
	answer := api.Jwks200JSONResponse{
		Headers: api.Jwks200ResponseHeaders{CacheControl: &keep},
		Body:    api.KeySet{Keys: make([]api.Key, len(keys))},
	}
	for i, k := range keys {
		answer.Body.Keys[i] = api.Key{Kty: k.KeyType, Use: k.Use, Alg: k.Algorithm, Kid: k.ID, N: k.Modulus, E: k.Exponent}
	}
	return answer, nil
}

// RegisterDevice implements POST /api/devices.
func (s *Server) RegisterDevice(ctx context.Context, req api.RegisterDeviceRequestObject) (api.RegisterDeviceResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	in := accounts.DeviceInput{Kind: string(req.Body.Kind), Token: req.Body.Token, Platform: req.Body.Platform}
	if req.Body.AppVersion != nil {
		in.AppVersion = *req.Body.AppVersion
	}
	device, err := s.accounts.RegisterDevice(ctx, caller.UserID, caller.SessionID, in)
	if err != nil {
		return nil, err
	}
	return api.RegisterDevice201JSONResponse(pushDeviceOf(device)), nil
}

// ListDevices implements GET /api/devices.
func (s *Server) ListDevices(ctx context.Context, _ api.ListDevicesRequestObject) (api.ListDevicesResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	list, err := s.accounts.Devices(ctx, caller.UserID)
	if err != nil {
		return nil, err
	}
	return api.ListDevices200JSONResponse{Devices: pushDevicesOf(list)}, nil
}

// DeleteDevice implements DELETE /api/devices/{id}.
func (s *Server) DeleteDevice(ctx context.Context, req api.DeleteDeviceRequestObject) (api.DeleteDeviceResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	if err := s.accounts.DeleteDevice(ctx, caller.UserID, req.Id); err != nil {
		return nil, err
	}
	return api.DeleteDevice204Response{}, nil
}

// CreateTicket implements POST /api/realtime/ticket.
func (s *Server) CreateTicket(ctx context.Context, _ api.CreateTicketRequestObject) (api.CreateTicketResponseObject, error) {
	caller := exchangeOf(ctx).caller
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	ticket, err := s.accounts.CreateTicket(ctx, caller.UserID, caller.SessionID)
	if err != nil {
		return nil, err
	}
	return api.CreateTicket200JSONResponse{Ticket: ticket.Ticket, ExpiresAt: ticket.ExpiresAt.UTC()}, nil
}

func loginOf(r accounts.AuthResult) api.Login {
	return api.Login{
		User:        api.Account{Id: r.User.ID, DisplayName: r.User.DisplayName, PartnerCode: optional(r.User.PartnerCode)},
		AccessToken: r.AccessToken, ExpiresAt: r.ExpiresAt.UTC(), RefreshToken: r.RefreshToken,
	}
}

func sessionsOf(list []accounts.Session) []api.Session {
	out := make([]api.Session, len(list))
	for i, session := range list {
		out[i] = api.Session{
			Id: session.ID, CreatedAt: session.CreatedAt.UTC(), LastUsedAt: session.LastUsedAt.UTC(), Current: session.Current,
		}
		if d := session.Device; d != nil {
			out[i].Device = &api.SessionDevice{
				Name: optional(d.Name), Platform: optional(d.Platform), Model: optional(d.Model),
				OsVersion: optional(d.OSVersion), AppVersion: optional(d.AppVersion),
			}
		}
	}
	return out
}

func pushDevicesOf(list []accounts.PushDevice) []api.Device {
	out := make([]api.Device, len(list))
	for i, device := range list {
		out[i] = pushDeviceOf(device)
	}
	return out
}

func pushDeviceOf(d accounts.PushDevice) api.Device {
	return api.Device{
		Id: d.ID, Kind: d.Kind, Platform: d.Platform, AppVersion: optional(d.AppVersion),
		CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
}

func deviceOf(d *api.SessionDevice) *accounts.Device {
	if d == nil {
		return nil
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	return &accounts.Device{
		Name: text(d.Name), Platform: text(d.Platform), Model: text(d.Model),
		OSVersion: text(d.OsVersion), AppVersion: text(d.AppVersion),
	}
}

// optional leaves an empty text out of an answer.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
