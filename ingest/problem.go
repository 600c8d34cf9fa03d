package ingest

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/fault"
)

// statusOfKind is the one mapping from what went wrong to HTTP. A kind that is not here
// is internal.
var statusOfKind = map[fault.Kind]int{
	fault.Internal:        http.StatusInternalServerError,
	fault.Invalid:         http.StatusBadRequest,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Forbidden:       http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.Conflict:        http.StatusConflict,
	fault.Limited:         http.StatusTooManyRequests,
	fault.Unavailable:     http.StatusServiceUnavailable,
}

// statusOfCode holds the codes for which HTTP has a status of its own.
var statusOfCode = map[string]int{
	"idempotency_mismatch":   http.StatusUnprocessableEntity,
	"payload_too_large":      http.StatusRequestEntityTooLarge,
	"unsupported_media_type": http.StatusUnsupportedMediaType,
	"method_not_allowed":     http.StatusMethodNotAllowed,
	"upgrade_required":       http.StatusUpgradeRequired,
}

// defaultRetryAfter is told to a caller of something unavailable that named no time.
const defaultRetryAfter = 2 * time.Second

// rejection is the outcome of a command that was not applied, as the answer to a call.
type rejection struct {
	fault     *fault.Error
	commandID uuid.UUID
	headers   http.Header
}

func (r *rejection) Error() string { return r.fault.Error() }

func (r *rejection) Unwrap() error { return r.fault }

// writeProblem answers with the RFC 9457 document of err. What is not a fault is
// internal: its text is logged and never shown.
func (s *Server) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	f := asFault(err)
	status := statusOf(f)
	problem := api.Problem{
		Type:      "urn:bondmate:problem:" + f.Code,
		Title:     titleOf(f.Code),
		Status:    status,
		Detail:    f.Detail,
		Code:      api.ErrorCode(f.Code),
		RequestId: x.id,
	}
	if len(f.Fields) > 0 {
		fields := make([]api.FieldError, len(f.Fields))
		for i, field := range f.Fields {
			fields[i] = api.FieldError{Pointer: field.Pointer, Code: field.Code, Detail: field.Detail}
		}
		problem.Errors = &fields
	}
	header := w.Header()
	if rejected, ok := errors.AsType[*rejection](err); ok {
		problem.CommandId = &rejected.commandID
		for name, values := range rejected.headers {
			header[name] = values
		}
	}
	setRefusalHeaders(header, f)
	x.code, x.cause = f.Code, err
	body, marshalErr := json.Marshal(problem)
	if marshalErr != nil {
		s.log.ErrorContext(r.Context(), "write problem", slog.Any("error", marshalErr))
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	header.Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func statusOf(f *fault.Error) int {
	if status, ok := statusOfCode[f.Code]; ok {
		return status
	}
	return statusOfKind[f.Kind]
}

// setRefusalHeaders says when to come again, and with what.
func setRefusalHeaders(header http.Header, f *fault.Error) {
	if retry := f.RetryAfter; retry > 0 || f.Kind == fault.Unavailable {
		if retry <= 0 {
			retry = defaultRetryAfter
		}
		header.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(retry.Seconds())))))
	}
	if f.Kind == fault.Unauthenticated {
		header.Set("WWW-Authenticate", `Bearer realm="bondmate"`)
	}
}

// asFault returns the fault in err's chain, or the one that stands for err.
func asFault(err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if databaseAway(err) {
		return fault.Wrap(err, fault.Unavailable, "database_unavailable", "The database does not answer; try again.")
	}
	return fault.Wrap(err, fault.Internal, "internal", "Something went wrong here. The request id helps to find out what.")
}

// titleOf makes a title of a code: "not_pending" is "Not pending".
func titleOf(code string) string {
	if code == "" {
		return "Error"
	}
	return strings.ToUpper(code[:1]) + strings.ReplaceAll(code[1:], "_", " ")
}

// invalid is the fault of a request with one wrong place.
func invalid(pointer, code, detail string) *fault.Error {
	f := fault.New(fault.Invalid, "invalid_request", "The request is not valid.")
	f.Fields = []fault.Field{{Pointer: pointer, Code: code, Detail: detail}}
	return f
}

func notFound(detail string) *fault.Error {
	return fault.New(fault.NotFound, "not_found", detail)
}
