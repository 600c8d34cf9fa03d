package ingest

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/identity"
)

var update = flag.Bool("update", false, "write docs/permissions.md anew")

const permissionsPage = "../docs/permissions.md"

const permissionsHead = `# Who may call what

One table, [ingest/admin/table.go](../ingest/admin/table.go), says for each operation of the [OpenAPI document](../ingest/openapi.yaml) who may call it. Every request is
let in or refused by it, and a server does not start when the two differ: an operation that the table does not name, a name that is no operation, another role, scope
or ` + "`security`" + ` in the document. This page is written from it (` + "`go test -run TestPermissionsPage ./ingest -update`" + `).

| role | who | how one becomes it |
|---|---|---|
| anonymous | whoever calls | |
| ` + "`user`" + ` | who has an account | by registering |
| ` + "`support`" + ` | reads under ` + "`/api/ops`" + ` | ` + "`bondmate users promote <email> --role support`" + `, at a console alone |
| ` + "`admin`" + ` | also changes | the same with ` + "`--role admin`" + `, also the first one: no account comes with the program, and no password |
| API key | a server, with the scopes that it was given | ` + "`bondmate api-keys create`" + `, or ` + "`POST /api/ops/api-keys`" + ` by an ` + "`admin`" + ` |

Who has a role may call what those before it may; an API key may call what its scopes name and nothing else. The tiers ` + "`free`" + ` and ` + "`premium`" + ` say how much a user may
have and do (slots, calls in a time), never which operations there are. Of what is a user's own, the caller's is meant: others' are as if they were not there.

| operation | call | anonymous | ` + "`user` | `support` | `admin`" + ` | API key with |
|---|---|---|---|---|---|---|
`

// permissionsText renders the page of the table.
func permissionsText(d *document) string {
	var out bytes.Buffer
	out.WriteString(permissionsHead)
	// For anybody, for who has an account, for operators.
	group := func(op *operation) identity.Role { return min(op.permission.Least, identity.RoleSupport) }
	operations := slices.SortedFunc(maps.Values(d.byName), func(a, b *operation) int {
		return cmp.Or(cmp.Compare(group(a), group(b)), cmp.Compare(a.template+" "+a.method, b.template+" "+b.method))
	})
	for _, op := range operations {
		fmt.Fprintf(&out, "| `%s` | `%s %s` |", op.route.Operation.OperationID, op.method, op.template)
		for _, role := range []identity.Role{0, identity.RoleUser, identity.RoleSupport, identity.RoleAdmin} {
			mark := "yes"
			if role < op.permission.Least {
				mark = "–"
			}
			fmt.Fprintf(&out, " %s |", mark)
		}
		switch {
		case op.permission.Scope != admin.NoScope:
			fmt.Fprintf(&out, " `%s` |\n", op.permission.Scope)
		case op.permission.Least == 0:
			out.WriteString(" not asked |\n")
		default:
			out.WriteString(" – |\n")
		}
	}
	return out.String()
}

func TestPermissionsPage(t *testing.T) {
	t.Parallel()
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	want := permissionsText(d)
	if *update {
		if err := os.WriteFile(permissionsPage, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(permissionsPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/permissions.md is not the table's (-table +page):\n%s", diff)
	}
}

// What the table and the document do not agree on keeps a server from starting.
func TestPermissionsAgreeWithTheDocument(t *testing.T) {
	t.Parallel()
	read := func() map[string]admin.Declared {
		spec, err := openapi3.NewLoader().LoadFromData(openAPI)
		if err != nil {
			t.Fatal(err)
		}
		declared := map[string]admin.Declared{}
		for template, item := range spec.Paths.Map() {
			for _, o := range item.Operations() {
				if declared[o.OperationID], err = declaredOf(spec, template, o); err != nil {
					t.Fatal(err)
				}
			}
		}
		return declared
	}
	change := func(operation string, do func(*admin.Declared)) func(map[string]admin.Declared) {
		return func(all map[string]admin.Declared) {
			d, there := all[operation]
			if !there {
				t.Errorf("%s is no operation", operation)
			}
			do(&d)
			all[operation] = d
		}
	}
	if demanded, err := admin.Permissions(read()); err != nil || len(demanded) != len(read()) {
		t.Fatalf("%d permissions: %v", len(demanded), err)
	}
	for name, tt := range map[string]struct {
		change func(map[string]admin.Declared)
		want   string
	}{
		"an operation that the table lacks":  {func(all map[string]admin.Declared) { all["spy"] = admin.Declared{Path: "/api/spy", Bearer: true} }, "spy of /api/spy has no permission"},
		"a name that is no operation":        {func(all map[string]admin.Declared) { delete(all, "getProfile") }, "getProfile, which is no operation"},
		"a route for users that is public":   {change("getProfile", func(d *admin.Declared) { d.Public = true }), "open to anybody: false, in the document: true"},
		"a public route that is not":         {change("login", func(d *admin.Declared) { d.Public, d.Bearer = false, true }), "open to anybody: true, in the document: false"},
		"a route for users with a key":       {change("getProfile", func(d *admin.Declared) { d.Key = true }), "open to API keys: false, in the document: true"},
		"keys by keys":                       {change("createApiKey", func(d *admin.Declared) { d.Key = true }), "open to API keys: false, in the document: true"},
		"a route of keys without one":        {change("showUser", func(d *admin.Declared) { d.Key = false }), "open to API keys: true, in the document: false"},
		"a route for keys alone":             {change("showUser", func(d *admin.Declared) { d.Bearer = false }), "the document no access token"},
		"another role":                       {change("suspendUser", func(d *admin.Declared) { d.Role = "support" }), `the role "admin", in the document: "support"`},
		"a role that is not said":            {change("suspendUser", func(d *admin.Declared) { d.Role = "" }), `the role "admin", in the document: ""`},
		"a role for users":                   {change("getProfile", func(d *admin.Declared) { d.Role = "support" }), `the role "", in the document: "support"`},
		"another scope":                      {change("setTier", func(d *admin.Declared) { d.Scope = "users:read" }), `the scope "users:write", in the document: "users:read"`},
		"a path for operators, not guarded":  {change("showUser", func(d *admin.Declared) { d.Path = "/api/users/{id}" }), "its path says otherwise"},
		"a path for users, where operators":  {change("getProfile", func(d *admin.Declared) { d.Path = "/api/ops/profile" }), "its path says otherwise"},
		"monitoring is for operators, as is": {change("getProfile", func(d *admin.Declared) { d.Path = "/api/monitoring/profile" }), "its path says otherwise"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			declared := read()
			tt.change(declared)
			if _, err := admin.Permissions(declared); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// A kind of security that the program does not know is none that it could check.
func TestSecurityThatNobodyChecks(t *testing.T) {
	t.Parallel()
	for name, one := range map[string]openapi3.SecurityRequirement{
		"a scheme of its own": {"cookie": {}},
		"two at once":         {"bearer": {}, "apiKey": {}},
	} {
		security := openapi3.SecurityRequirements{one}
		if d, err := declaredOf(&openapi3.T{}, "/", &openapi3.Operation{Security: &security}); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
	wrong := &openapi3.Operation{Extensions: map[string]any{"x-role": true}}
	if d, err := declaredOf(&openapi3.T{}, "/", wrong); err == nil {
		t.Errorf("a role that is no text: %+v", d)
	}
}

// Each scope opens something, and the document lists them all where one asks for one and
// where the header is described.
func TestScopesOfTheDocument(t *testing.T) {
	t.Parallel()
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	var listed, used []string
	for _, v := range d.spec.Components.Schemas["ApiKeyScope"].Value.Enum {
		listed = append(listed, v.(string))
	}
	about := d.spec.Components.SecuritySchemes["apiKey"].Value.Description
	var known []string
	for _, s := range admin.Scopes() {
		known = append(known, string(s))
		if !strings.Contains(about, "`"+string(s)+"`") {
			t.Errorf("the description of X-API-Key does not name %s", s)
		}
	}
	for _, op := range d.byName {
		scope := string(op.permission.Scope)
		if scope == "" {
			continue
		}
		used = append(used, scope)
		if reads := strings.HasSuffix(scope, ":read"); reads != (op.method == "GET") {
			t.Errorf("%s %s takes %s", op.method, op.template, scope)
		}
		if strings.Contains(op.template, "payload") || strings.Contains(op.template, "api-keys") {
			t.Errorf("%s %s is open to API keys", op.method, op.template)
		}
	}
	slices.Sort(used)
	if diff := gocmp.Diff(known, listed); diff != "" {
		t.Errorf("scopes (-program +document):\n%s", diff)
	}
	slices.Sort(known)
	if diff := gocmp.Diff(known, slices.Compact(used)); diff != "" {
		t.Errorf("scopes (-program +operations):\n%s", diff)
	}
}
