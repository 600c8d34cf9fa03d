package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/ingest/cache"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// cachedAnswer is a read's answer that is encoded already, or 304 without a body. The
// operations share their shape.
type cachedAnswer struct {
	body []byte // nil: what the client has is what there is
	tag  string // empty: nothing is known that would name this state
}

func (a cachedAnswer) write(w http.ResponseWriter) error {
	h := w.Header()
	if a.tag != "" {
		h.Set("ETag", a.tag)
		// A client may keep it and must ask before showing it again: whoever has left must not
		// be seen as a partner.
		h.Set("Cache-Control", "private, no-cache")
	}
	if a.body == nil {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/json")
	_, _ = w.Write(a.body) // the caller left: nothing to tell
	return nil
}

// VisitGetProfileResponse implements api.GetProfileResponseObject.
func (a cachedAnswer) VisitGetProfileResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitGetCurrentResponse implements api.GetCurrentResponseObject.
func (a cachedAnswer) VisitGetCurrentResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitListPartnersResponse implements api.ListPartnersResponseObject.
func (a cachedAnswer) VisitListPartnersResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitGetSlotsResponse implements api.GetSlotsResponseObject.
func (a cachedAnswer) VisitGetSlotsResponse(w http.ResponseWriter) error { return a.write(w) }

var (
	_ api.GetProfileResponseObject   = cachedAnswer{}
	_ api.GetCurrentResponseObject   = cachedAnswer{}
	_ api.ListPartnersResponseObject = cachedAnswer{}
	_ api.GetSlotsResponseObject     = cachedAnswer{}
)

// remembered answers a read of the caller's own state: with 304 when the client has that
// answer, else from the cache, else with what load reads. The state's version was looked up
// before load reads, so what is kept under it is not older than it says.
func remembered[T any](ctx context.Context, s *Server, read cache.Read, load func(context.Context) (T, error)) (cachedAnswer, error) {
	encoded := func(ctx context.Context) ([]byte, error) {
		answer, err := load(ctx)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(answer)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", read, err)
		}
		return append(body, '\n'), nil
	}
	x := exchangeOf(ctx)
	if s.cache == nil || !x.standing.Active { // whose state was not looked up has no version
		body, err := encoded(ctx)
		return cachedAnswer{body: body}, err
	}
	q := cache.Query{
		Read: read, User: x.caller.UserID,
		Version: cache.Version{Epoch: x.standing.Epoch, Seq: x.standing.Seq, Row: x.standing.Row},
	}
	tag := tagOf(q)
	if names(x.request.Header.Values("If-None-Match"), tag) {
		s.metrics.unchanged.WithLabelValues(string(read)).Inc()
		return cachedAnswer{tag: tag}, nil
	}
	body, err := s.cache.Answer(ctx, q, encoded)
	return cachedAnswer{body, tag}, err
}

// tagOf names the state of an answer. It is weak: the bytes on the wire differ with the
// compression. It tells nothing: neither how much a user does nor how much the database.
func tagOf(q cache.Query) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s %d %d", Shape(), q.Read, q.User, q.Version.Epoch, q.Version.Seq, q.Version.Row))
	return `W/"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}

// names reports whether one of If-None-Match's tags is this one (RFC 9110, 13.1.2, where a
// weak tag matches a strong one). Our tags hold no comma.
func names(headers []string, tag string) bool {
	for _, header := range headers {
		for given := range strings.SplitSeq(header, ",") {
			given = strings.TrimSpace(given)
			if given == "*" || strings.TrimPrefix(given, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

// forget drops what is kept of people who have parted or are leaving: the one's name and
// nickname are in what the other was shown. It would not be served any more; this is so that
// it does not lie about.
func (s *Server) forget(ev contract.Event) {
	switch ev.Type {
	case partner.EventAccountDeleted.String(), partner.EventPartnershipEnded.String():
	default:
		return
	}
	for _, r := range ev.Recipients {
		s.cache.Forget(ev.Epoch, r.UserID)
	}
}
