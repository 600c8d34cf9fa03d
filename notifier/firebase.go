package notifier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/jwt"
	"google.golang.org/api/option"
)

const (
	messagingScope   = "https://www.googleapis.com/auth/firebase.messaging"
	tokenTimeout     = 5 * time.Second
	tokenSpare       = time.Minute // a token that ends within it is replaced
	tokenFailureHold = time.Second // callers that wait meanwhile share one failure
	maxAnswer        = 64 << 10
	dialTimeout      = 3 * time.Second
	// A status that the SDK does not retry and no server sends: stands for "no answer".
	noAnswer = 599
)

// FirebaseConfig is what the Firebase provider needs.
type FirebaseConfig struct {
	CredentialsFile string           // a service account's JSON file, read again for each token; required
	Endpoint        string           // base URL instead of FCM's own, without /v1
	InFlight        int              // connections kept; default 256
	Clock           func() time.Time // default time.Now
}

// Firebase sends pushes through FCM's HTTP v1 API with the Firebase SDK.
//
// The SDK retries by itself, hidden and unconfigurable: network errors and 503, four
// times over some seconds. Its transport is therefore wrapped so that the SDK only ever
// sees answers that it does not retry; what really happened is noted beside the request
// and judged here. One Send is at most one call.
type Firebase struct {
	client *messaging.Client
	base   *http.Transport
}

// NewFirebase reads the credentials and makes a provider. It makes no call yet.
func NewFirebase(ctx context.Context, cfg FirebaseConfig) (*Firebase, error) {
	if cfg.InFlight <= 0 {
		cfg.InFlight = defaultInFlight
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	project, _, err := readAccount(cfg.CredentialsFile)
	if err != nil {
		return nil, err
	}
	base := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          2 * cfg.InFlight,
		MaxIdleConnsPerHost:   cfg.InFlight,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second, // the caller's deadline is shorter; this one is the last line
	}
	fetcher := &http.Client{Transport: base, Timeout: tokenTimeout}
	transport := &singleAttempt{base: base, clock: cfg.Clock, tokens: &tokens{
		lock:  make(chan struct{}, 1),
		clock: cfg.Clock,
		fetch: func(ctx context.Context) (*oauth2.Token, error) {
			// The file anew, so that a key that was replaced holds from the next token on. A new
			// source each time: the library's own caches tokens and locks without a deadline.
			_, grant, err := readAccount(cfg.CredentialsFile)
			if err != nil {
				return nil, err
			}
			return grant.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, fetcher)).Token()
		},
	}}
	opts := []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: transport})}
	if cfg.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(cfg.Endpoint+"/v1"))
	}
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: project}, opts...)
	if err != nil {
		return nil, fmt.Errorf("set up Firebase: %w", err)
	}
	client, err := app.Messaging(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up Firebase messaging: %w", err)
	}
	return &Firebase{client: client, base: base}, nil
}

// readAccount reads a service account's project and its right to push.
func readAccount(file string) (project string, grant *jwt.Config, err error) {
	key, err := os.ReadFile(file) // #nosec G304 -- the operator names it
	if err != nil {
		return "", nil, fmt.Errorf("read the Firebase credentials: %w", err)
	}
	var account struct {
		ProjectID string `json:"project_id"`
	}
	if err = json.Unmarshal(key, &account); err != nil {
		return "", nil, fmt.Errorf("read the Firebase credentials %s: %w", file, err)
	}
	if grant, err = google.JWTConfigFromJSON(key, messagingScope); err != nil {
		return "", nil, fmt.Errorf("read the Firebase credentials %s: %w", file, err)
	}
	return account.ProjectID, grant, nil
}

// Close drops idle connections.
func (f *Firebase) Close() { f.base.CloseIdleConnections() }

// Send implements Provider.
func (f *Firebase) Send(ctx context.Context, msg Message) error {
	var seen answer
	_, err := f.client.Send(context.WithValue(ctx, answerKey{}, &seen), fcmMessage(msg))
	if err == nil {
		return nil
	}
	// Asked of the bare error: the SDK's predicates do not look through a wrap.
	return judge(ctx, err, seen, messaging.IsUnregistered(err), messaging.IsSenderIDMismatch(err))
}

// judge turns what the transport saw into a verdict.
func judge(ctx context.Context, err error, seen answer, unregistered, otherSender bool) *SendError {
	verdict := Unknown
	switch {
	case seen.err != nil:
		if errors.Is(context.Cause(ctx), context.Canceled) && errors.Is(seen.err, context.Canceled) {
			verdict = Cancelled
		}
		if refused, ok := errors.AsType[*oauth2.RetrieveError](seen.err); ok {
			verdict = Unavailable
			if code := refused.Response.StatusCode; code < http.StatusInternalServerError && code != http.StatusTooManyRequests {
				verdict = Denied
			}
		}
		err = seen.err
	case seen.status == 0: // the SDK found the message unfit and made no call
		verdict = Refused
	case seen.status == http.StatusNotFound && unregistered:
		verdict = Gone
	case seen.status == http.StatusForbidden && otherSender:
		verdict = Refused // the address belongs to another project's app
	case seen.status == http.StatusUnauthorized, seen.status == http.StatusForbidden, seen.status == http.StatusNotFound:
		// A 404 without FCM's details is a wrong URL, project or proxy: no word about the address.
		verdict = Denied
	case seen.status == http.StatusTooManyRequests:
		verdict = Throttled
	case seen.status == http.StatusRequestTimeout:
		verdict = Unavailable
	case seen.status >= http.StatusInternalServerError:
		verdict = Unavailable
	case seen.status >= http.StatusBadRequest:
		verdict = Refused
	}
	return &SendError{Verdict: verdict, Status: seen.status, RetryAfter: seen.retryAfter, Cause: err}
}

func fcmMessage(msg Message) *messaging.Message {
	ttl := msg.TTL
	androidPriority, apnsPriority := "normal", "5"
	if msg.High {
		androidPriority, apnsPriority = "high", "10"
	}
	headers := map[string]string{
		"apns-priority":   apnsPriority,
		"apns-expiration": strconv.FormatInt(msg.ExpiresAt.Unix(), 10),
	}
	if msg.CollapseID != "" {
		headers["apns-collapse-id"] = msg.CollapseID
	}
	var badge *int
	if msg.Badge != noBadge {
		badge = &msg.Badge
	}
	if msg.Silent {
		// Apple delivers what is to wake an app in the background at this priority only, and sets
		// a badge for what counts as an alert, if one without words.
		headers["apns-push-type"], headers["apns-priority"] = "background", "5"
		if badge != nil {
			headers["apns-push-type"] = "alert"
		}
		return &messaging.Message{
			Token:   msg.Token,
			Data:    msg.Data,
			Android: &messaging.AndroidConfig{CollapseKey: msg.CollapseID, Priority: androidPriority, TTL: &ttl},
			APNS: &messaging.APNSConfig{
				Headers: headers, Payload: &messaging.APNSPayload{Aps: &messaging.Aps{ContentAvailable: true, Badge: badge}},
			},
		}
	}
	return &messaging.Message{
		Token:        msg.Token,
		Data:         msg.Data,
		Notification: &messaging.Notification{Title: msg.Title, Body: msg.Body},
		Android: &messaging.AndroidConfig{
			CollapseKey: msg.CollapseID, Priority: androidPriority, TTL: &ttl,
			Notification: &messaging.AndroidNotification{Tag: msg.CollapseID, ChannelID: msg.Category, NotificationCount: badge},
		},
		APNS: &messaging.APNSConfig{
			Headers: headers,
			Payload: &messaging.APNSPayload{Aps: &messaging.Aps{Category: msg.Category, Sound: "default", Badge: badge}},
		},
	}
}

// answer is what really became of a call.
type answer struct {
	status     int
	retryAfter time.Duration
	err        error // no answer came, or no token could be had
}

type answerKey struct{}

// singleAttempt authorizes a request, makes one call, notes the outcome in the request's
// context, and shows the SDK an answer that it does not retry. It reads the body itself,
// since the SDK retries a body that breaks off, too.
type singleAttempt struct {
	base   http.RoundTripper
	tokens *tokens
	clock  func() time.Time
}

// RoundTrip implements http.RoundTripper. It never returns an error.
func (t *singleAttempt) RoundTrip(req *http.Request) (*http.Response, error) {
	seen, ok := req.Context().Value(answerKey{}).(*answer)
	if !ok {
		seen = &answer{}
	}
	resp, body, err := t.call(req)
	if err != nil {
		seen.err = err
		return response(req, noAnswer, nil), nil
	}
	seen.status = resp.StatusCode
	seen.retryAfter = retryAfter(resp.Header.Get("Retry-After"), t.clock())
	if seen.status == http.StatusServiceUnavailable {
		return response(req, http.StatusBadGateway, body), nil
	}
	return response(req, seen.status, body), nil
}

func (t *singleAttempt) call(req *http.Request) (*http.Response, []byte, error) {
	token, err := t.tokens.get(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a buffer of the SDK; a RoundTripper must close it always
		}
		return nil, nil, fmt.Errorf("get an access token: %w", err)
	}
	authorized := req.Clone(req.Context())
	token.SetAuthHeader(authorized)
	resp, err := t.base.RoundTrip(authorized)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	_ = resp.Body.Close() // read to its end or given up: nothing depends on it
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		t.tokens.drop(token)
	}
	return resp, body, nil
}

func response(req *http.Request, status int, body []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// retryAfter reads a Retry-After header, which holds seconds or a date.
func retryAfter(header string, now time.Time) time.Duration {
	if header == "" {
		return 0
	}
	if seconds, err := strconv.Atoi(header); err == nil && seconds > 0 {
		return time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil && at.After(now) {
		return min(at.Sub(now), maxRetryAfter)
	}
	return 0
}

// tokens holds the current access token. One caller at a time fetches; the others wait
// for it no longer than their own deadlines.
type tokens struct {
	lock  chan struct{} // holds one element while someone has the fields below
	fetch func(context.Context) (*oauth2.Token, error)
	clock func() time.Time

	token     *oauth2.Token
	failure   error
	failureAt time.Time
}

func (t *tokens) get(ctx context.Context) (*oauth2.Token, error) {
	select {
	case t.lock <- struct{}{}:
		defer func() { <-t.lock }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := t.clock()
	if t.token != nil && (t.token.Expiry.IsZero() || now.Add(tokenSpare).Before(t.token.Expiry)) {
		return t.token, nil
	}
	if t.failure != nil && now.Sub(t.failureAt) < tokenFailureHold {
		return nil, t.failure
	}
	t.token, t.failure = t.fetch(ctx)
	t.failureAt = t.clock()
	return t.token, t.failure
}

// drop forgets a token that was refused, unless it has been replaced already.
func (t *tokens) drop(refused *oauth2.Token) {
	t.lock <- struct{}{}
	defer func() { <-t.lock }()
	if t.token == refused {
		t.token = nil
	}
}
