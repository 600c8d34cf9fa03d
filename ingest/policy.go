package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/bondmate/backend/pkg/fault"
)

const (
	// leastWaitingTimeout is the longest wait that a caller may ask for, with what comes before
	// and after it: the pipe, a look, the write.
	leastWaitingTimeout = maxWait + 5*time.Second
	// answerWithin is how long an answer may take on the wire after its operation's time.
	answerWithin = 10 * time.Second
)

// policy is what an operation's extensions say of it:
//
//	x-timeout            how long it may work on a request after its body has come (30s)
//	x-max-body           how long a body may be, in bytes
//	x-deprecated-since   with deprecated: true, the day since which it is (2027-01-31)
//	x-sunset             the day from which it may be gone
//	x-deprecation-link   what to do instead; default the documents
//
// What an operation does not say is in the document's x-defaults: timeout, waitingTimeout (of
// those that take Prefer) and maxBody.
type policy struct {
	timeout    time.Duration
	maxBody    int64
	deprecated http.Header // set on every answer; nil for most
}

// defaults is the document's x-defaults.
type defaults struct {
	timeout, waiting time.Duration
	maxBody          int64
}

func readDefaults(spec *openapi3.T) (d defaults, err error) {
	given, ok := spec.Extensions["x-defaults"].(map[string]any)
	if !ok {
		return d, errors.New("the document has no x-defaults")
	}
	var faults [3]error
	d.timeout, faults[0] = duration(given["timeout"])
	d.waiting, faults[1] = duration(given["waitingTimeout"])
	d.maxBody, faults[2] = size(given["maxBody"])
	return d, errors.Join(faults[:]...)
}

func duration(value any) (time.Duration, error) {
	text, _ := value.(string)
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > 5*time.Minute {
		return 0, fmt.Errorf("%v is not a time such as 30s", value)
	}
	return d, nil
}

func size(value any) (int64, error) {
	n, ok := value.(float64)
	if !ok || n < 1 || n > 64<<20 || n != float64(int64(n)) {
		return 0, fmt.Errorf("%v is not a number of bytes up to 64 MiB", value)
	}
	return int64(n), nil
}

func (d defaults) policyOf(o *openapi3.Operation, parameters openapi3.Parameters) (p policy, err error) {
	p = policy{timeout: d.timeout, maxBody: d.maxBody}
	waits := parameters.GetByInAndName(openapi3.ParameterInHeader, "Prefer") != nil
	if waits {
		p.timeout = d.waiting
	}
	if value, ok := o.Extensions["x-timeout"]; ok {
		if p.timeout, err = duration(value); err != nil {
			return p, fmt.Errorf("x-timeout: %w", err)
		}
	}
	if waits && p.timeout < leastWaitingTimeout {
		return p, fmt.Errorf("x-timeout: %s is less than a caller may wait for", p.timeout)
	}
	if value, ok := o.Extensions["x-max-body"]; ok {
		if p.maxBody, err = size(value); err != nil {
			return p, fmt.Errorf("x-max-body: %w", err)
		}
	}
	p.deprecated, err = deprecation(o)
	return p, err
}

// deprecation makes the headers of RFC 9745 and RFC 8594.
func deprecation(o *openapi3.Operation) (http.Header, error) {
	since, sunset, link := o.Extensions["x-deprecated-since"], o.Extensions["x-sunset"], o.Extensions["x-deprecation-link"]
	if !o.Deprecated {
		if since != nil || sunset != nil || link != nil {
			return nil, errors.New("x-deprecated-since, x-sunset and x-deprecation-link need deprecated: true")
		}
		return nil, nil
	}
	from, err := day(since)
	if err != nil {
		return nil, fmt.Errorf("x-deprecated-since: %w", err)
	}
	h := http.Header{"Deprecation": {"@" + strconv.FormatInt(from.Unix(), 10)}}
	if sunset != nil {
		until, err := day(sunset)
		if err != nil {
			return nil, fmt.Errorf("x-sunset: %w", err)
		}
		if until.Before(from) {
			return nil, errors.New("x-sunset: it cannot go before it is deprecated")
		}
		h.Set("Sunset", until.Format(http.TimeFormat))
	}
	to, _ := link.(string)
	if to == "" {
		to = "/docs"
	}
	h.Set("Link", "<"+to+`>; rel="deprecation"; type="text/html"`)
	return h, nil
}

func day(value any) (time.Time, error) {
	text, _ := value.(string)
	at, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%v is not a day such as 2027-01-31", value)
	}
	return at, nil
}

// apply says that the operation goes, and gives the answer its time on the wire.
func (p policy) apply(w http.ResponseWriter) {
	for name, values := range p.deprecated {
		w.Header()[name] = values
	}
	// The server's own deadline is for the rest; where the writer has none, nothing is lost.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(p.timeout + answerWithin))
}

// refuseEncoded refuses a body that would have to be unpacked: what is small on the wire may
// be any size then, and no client of this API packs what it sends.
func refuseEncoded(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	for _, encoding := range r.Header.Values("Content-Encoding") {
		if encoding = strings.TrimSpace(encoding); encoding != "" && !strings.EqualFold(encoding, "identity") {
			w.Header().Set("Accept-Encoding", "identity") // RFC 9110, 12.5.3: what is taken
			return fault.New(fault.Invalid, "unsupported_media_type", "A body must come as it is, without a Content-Encoding.")
		}
	}
	return nil
}
