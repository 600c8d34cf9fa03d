package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/gorilla/mux"

	"github.com/bondmate/backend/pkg/fault"
)

const (
	// maxFieldErrors bounds the list in a problem; a body of errors is not answered by another.
	maxFieldErrors = 20
	// maxDepth bounds the nesting of a body: nothing in the document is deeper than two.
	maxDepth = 32
)

// validate holds the request against the operation's part of the document. The returned
// request carries the decoded body, so the generated code binds it without parsing again.
func (op *operation) validate(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	if err := refuseEncoded(w, r); err != nil {
		return r, err
	}
	var found fields
	if len(op.parameters) > 0 {
		if many := r.Header["Prefer"]; len(many) > 1 {
			r.Header.Set("Prefer", strings.Join(many, ", ")) // RFC 9110: the same as one list
		}
		input := &openapi3filter.RequestValidationInput{
			Request: r, PathParams: mux.Vars(r), QueryParams: r.URL.Query(), Route: op.route, Options: op.options,
		}
		for _, p := range op.parameters {
			if p.In == openapi3.ParameterInHeader && len(r.Header.Values(p.Name)) == 0 {
				continue // optional, and the most common case
			}
			if err := openapi3filter.ValidateParameter(r.Context(), input, p); err != nil {
				found.addParameter(p.Name, err)
			}
		}
	}
	if op.body != nil {
		body, err := op.readBody(w, r)
		if err != nil {
			return r, err
		}
		if body == nil && op.bodyRequired {
			found.add("", "required", "A JSON body is needed.")
		}
		if body != nil {
			if err := op.body.VisitJSON(body.value, op.visit...); err != nil {
				found.addSchema("", err)
			}
			exchangeOf(r.Context()).body = body.value
			r.Body = body
		} else {
			r.Body = http.NoBody
		}
	} else if err := op.refuseLarge(w, r); err != nil {
		return r, err
	}
	if len(found) > 0 {
		f := fault.New(fault.Invalid, "invalid_request", "The request does not match the API's document; see errors.")
		f.Fields = found
		return r, f
	}
	return r, nil
}

// parsedBody is a body that has been read and decoded.
type parsedBody struct {
	*bytes.Reader
	value any
}

// Close implements io.Closer.
func (*parsedBody) Close() error { return nil }

// ValidatedValue is what the generated code binds instead of the bytes.
func (b *parsedBody) ValidatedValue() any { return b.value }

// readBody reads the body once, within the limit. It returns nil when none came.
func (op *operation) readBody(w http.ResponseWriter, r *http.Request) (*parsedBody, error) {
	if r.ContentLength > op.maxBody {
		return nil, op.tooLarge()
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, op.maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, op.tooLarge()
		}
		return nil, fault.Wrap(err, fault.Invalid, "invalid_request", "The body could not be read.")
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fault.New(fault.Invalid, "unsupported_media_type", "The body must be application/json.")
	}
	if !utf8.Valid(data) {
		return nil, invalid("", "malformed", "The body is not UTF-8.")
	}
	if depth(data) > maxDepth {
		return nil, invalid("", "malformed", "The body is nested too deeply.")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, invalid("", "malformed", "The body is not JSON.")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("", "malformed", "There is something after the JSON value.")
	}
	return &parsedBody{Reader: bytes.NewReader(data), value: value}, nil
}

// refuseLarge holds a body that nothing reads to the limit, too; one that does not say how
// long it is has to be read for that.
func (op *operation) refuseLarge(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > op.maxBody {
		return op.tooLarge()
	}
	if r.ContentLength >= 0 {
		return nil
	}
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, op.maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return op.tooLarge()
	}
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "invalid_request", "The body could not be read.")
	}
	return nil
}

func (op *operation) tooLarge() error {
	return fault.New(fault.Invalid, "payload_too_large", fmt.Sprintf("A body may have %d KiB.", op.maxBody>>10))
}

// depth counts brackets, those in strings too: enough for a bound.
func depth(data []byte) int {
	var now, most int
	for _, c := range data {
		switch c {
		case '{', '[':
			now++
			most = max(most, now)
		case '}', ']':
			now--
		}
	}
	return most
}

// fields collects the wrong places of a request.
type fields []fault.Field

func (f *fields) add(pointer, code, detail string) {
	if len(*f) < maxFieldErrors {
		*f = append(*f, fault.Field{Pointer: pointer, Code: code, Detail: detail})
	}
}

func (f *fields) addParameter(name string, err error) {
	if reqErr, ok := errors.AsType[*openapi3filter.RequestError](err); ok {
		switch {
		case errors.Is(reqErr.Err, openapi3filter.ErrInvalidRequired):
			f.add(name, "required", "The parameter is missing.")
			return
		case errors.Is(reqErr.Err, openapi3filter.ErrInvalidEmptyValue):
			f.add(name, "required", "The parameter is empty.")
			return
		}
		if _, ok := errors.AsType[*openapi3filter.ParseError](reqErr.Err); ok {
			f.add(name, "wrong_type", "The parameter has the wrong type.")
			return
		}
		err = reqErr.Err
	}
	f.addSchema(name, err)
}

// addSchema adds the errors of a schema. No detail repeats a value: it may be a secret.
func (f *fields) addSchema(parameter string, err error) {
	if many, ok := errors.AsType[openapi3.MultiError](err); ok {
		for _, one := range many {
			f.addSchema(parameter, one)
		}
		return
	}
	schemaErr, ok := errors.AsType[*openapi3.SchemaError](err)
	if !ok {
		f.add(parameter, "malformed", "The value cannot be read.")
		return
	}
	pointer := parameter
	if parameter == "" {
		pointer = jsonPointer(schemaErr.JSONPointer())
	}
	switch schemaErr.SchemaField {
	case "required":
		f.add(pointer, "required", "The field is missing.")
	case "properties":
		f.add(pointer+jsonPointer([]string{unsupportedProperty(schemaErr.Reason)}), "unknown_field", "There is no such field.")
	case "type", "nullable":
		f.add(pointer, "wrong_type", "The value has the wrong type.")
	case "enum":
		f.add(pointer, "not_allowed", "The value is not one of the allowed ones.")
	case "minLength", "minItems":
		f.add(pointer, "too_short", upperFirst(schemaErr.Reason)+".")
	case "minProperties":
		f.add(pointer, "required", "At least one field is needed.")
	case "maxLength", "maxItems", "maxProperties":
		f.add(pointer, "too_long", upperFirst(schemaErr.Reason)+".")
	case "minimum", "maximum":
		f.add(pointer, "out_of_range", upperFirst(schemaErr.Reason)+".")
	default: // pattern, format
		f.add(pointer, "wrong_format", "The value has the wrong format.")
	}
}

// unsupportedProperty takes the name out of kin-openapi's reason, the only place that has it.
func unsupportedProperty(reason string) string {
	quoted := strings.TrimSuffix(strings.TrimPrefix(reason, "property "), " is unsupported")
	name, err := strconv.Unquote(quoted)
	if err != nil {
		return quoted
	}
	return name
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

func jsonPointer(path []string) string {
	var b strings.Builder
	for _, part := range path {
		b.WriteByte('/')
		b.WriteString(pointerEscapes.Replace(part))
	}
	return b.String()
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
