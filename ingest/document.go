package ingest

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/bondmate/backend/ingest/admin"
)

// openAPI is the contract and the source of the generated server.
//
//go:embed openapi.yaml
var openAPI []byte

// Shape names the form that answers have: programs of one shape answer alike.
func Shape() string {
	sum := sha256.Sum256(openAPI)
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// document is the OpenAPI document made ready for requests: the operation of each route,
// found by the route that the router matched, so nothing is matched twice.
type document struct {
	spec       *openapi3.T
	operations map[*mux.Route]*operation
	// byName is the same by method and template, for routes that are made once more.
	byName map[string]*operation
}

// operation is one method of one path, with what it demands of a request.
type operation struct {
	method       string
	template     string
	permission   *admin.Permission
	conduct      conduct
	command      bool // it is queued
	cached       bool // the answer may come from the cache, and has a validator
	parameters   []*openapi3.Parameter
	body         *openapi3.Schema // nil when none is read
	bodyRequired bool
	route        *routers.Route
	options      *openapi3filter.Options
	visit        []openapi3.SchemaValidationOption
	policy
}

// embedded reads the embedded document, once in a process: nobody changes it afterwards.
var embedded = sync.OnceValues(func() (*openapi3.T, error) { return openapi3.NewLoader().LoadFromData(openAPI) })

// loadDocument returns the embedded document, checked.
func loadDocument() (*document, error) {
	spec, err := embedded()
	if err != nil {
		return nil, fmt.Errorf("read OpenAPI document: %w", err)
	}
	return documentOf(spec)
}

func documentOf(spec *openapi3.T) (*document, error) {
	defaults, err := readDefaults(spec)
	if err != nil {
		return nil, fmt.Errorf("read OpenAPI document: x-defaults: %w", err)
	}
	formats := []openapi3.SchemaValidationOption{
		openapi3.WithStringFormatValidator("uuid", openapi3.NewCallbackValidator(checkUUID)),
		openapi3.WithStringFormatValidator("date", openapi3.NewCallbackValidator(checkDate)),
	}
	visit := append([]openapi3.SchemaValidationOption{
		openapi3.MultiErrors(), openapi3.VisitAsRequest(), openapi3.DisableSchemaErrorDetails(),
	}, formats...)
	options := &openapi3filter.Options{
		MultiError: true, SkipSettingDefaults: true, SchemaValidationOptions: formats,
	}
	d := &document{spec: spec, operations: map[*mux.Route]*operation{}, byName: map[string]*operation{}}
	declared := map[string]admin.Declared{}
	for template, item := range spec.Paths.Map() {
		for _, o := range item.Operations() {
			if declared[o.OperationID], err = declaredOf(spec, template, o); err != nil {
				return nil, fmt.Errorf("operation %s: %w", o.OperationID, err)
			}
		}
	}
	permissions, err := admin.Permissions(declared)
	if err != nil {
		return nil, fmt.Errorf("hold permissions against the OpenAPI document: %w", err)
	}
	signedIn := make(map[string]bool, len(permissions))
	for operation, p := range permissions {
		signedIn[operation] = p.Least != 0
	}
	if err := checkConducts(signedIn); err != nil {
		return nil, fmt.Errorf("read conducts: %w", err)
	}
	for template, item := range spec.Paths.Map() {
		for method, o := range item.Operations() {
			op := &operation{
				method: method, template: template, permission: permissions[o.OperationID], cached: isCached(o.OperationID),
				conduct: conducts[o.OperationID], command: queues(o),
				route:   &routers.Route{Spec: spec, Path: template, PathItem: item, Method: method, Operation: o},
				options: options, visit: visit,
			}
			parameters := append(append(openapi3.Parameters{}, item.Parameters...), o.Parameters...)
			for _, p := range parameters {
				op.parameters = append(op.parameters, p.Value)
			}
			if op.policy, err = defaults.policyOf(o, parameters); err != nil {
				return nil, fmt.Errorf("read OpenAPI document: %s %s: %w", method, template, err)
			}
			if o.RequestBody != nil {
				op.bodyRequired = o.RequestBody.Value.Required
				op.body = o.RequestBody.Value.Content.Get("application/json").Schema.Value
			}
			d.byName[method+" "+template] = op
		}
	}
	return d, nil
}

// declaredOf reads who may call an operation. What it does not understand is an error: it
// might be a condition that nothing would check.
func declaredOf(spec *openapi3.T, template string, o *openapi3.Operation) (admin.Declared, error) {
	d := admin.Declared{Path: template}
	security := spec.Security
	if o.Security != nil {
		security = *o.Security
	}
	d.Public = len(security) == 0
	for _, one := range security {
		_, bearer := one["bearer"]
		_, key := one["apiKey"]
		switch {
		case len(one) == 0:
			d.Public = true
		case len(one) == 1 && bearer:
			d.Bearer = true
		case len(one) == 1 && key:
			d.Key = true
		default:
			return d, fmt.Errorf("security %v is none that is known", one)
		}
	}
	for name, to := range map[string]*string{"x-role": &d.Role, "x-scope": &d.Scope} {
		value, there := o.Extensions[name]
		if *to, _ = value.(string); there && *to == "" {
			return d, fmt.Errorf("%s is no text", name)
		}
	}
	return d, nil
}

// isCached says which reads are asked for so often, and change so rarely, that their answers
// are kept.
func isCached(operationID string) bool {
	switch operationID {
	case "getProfile", "getCurrent", "listPartners", "getSlots":
		return true
	default:
		return false
	}
}

// queues reports whether an operation writes a command: its answer may be that it has.
func queues(o *openapi3.Operation) bool {
	accepted := o.Responses.Value("202")
	return accepted != nil && accepted.Ref == "#/components/responses/Accepted"
}

// bind finds the operation of every route of the router.
func (d *document) bind(router *mux.Router) error {
	return router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		template, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := route.GetMethods()
		if err != nil {
			return fmt.Errorf("route %s: %w", template, err)
		}
		for _, method := range methods {
			op, ok := d.byName[method+" "+template]
			if !ok {
				return fmt.Errorf("route %s %s is not in the document", method, template)
			}
			d.operations[route] = op
		}
		return nil
	})
}

func (d *document) operationOf(r *http.Request) *operation {
	return d.operations[mux.CurrentRoute(r)]
}

// checkUUID accepts the one text form of a UUID, of any version.
func checkUUID(s string) error {
	if len(s) != 36 {
		return fmt.Errorf("not a UUID")
	}
	if err := uuid.Validate(s); err != nil {
		return fmt.Errorf("not a UUID")
	}
	return nil
}

func checkDate(s string) error {
	if _, err := time.Parse(time.DateOnly, s); err != nil {
		return fmt.Errorf("not a date")
	}
	return nil
}

// allowed returns the methods that the path of a refused request has.
func (d *document) allowed(r *http.Request, router *mux.Router) []string {
	var methods []string
	probe := r.Clone(r.Context())
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe.Method = method
		var match mux.RouteMatch
		if router.Match(probe, &match) && match.MatchErr == nil && d.operations[match.Route] != nil {
			methods = append(methods, method)
			if method == http.MethodGet {
				methods = append(methods, http.MethodHead)
			}
		}
	}
	return methods
}
