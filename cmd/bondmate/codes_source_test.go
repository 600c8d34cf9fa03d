package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
)

// document loads what the API publishes.
func document(t *testing.T) *openapi3.T {
	t.Helper()
	spec, err := openapi3.NewLoader().LoadFromFile("../../ingest/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func documentedCodes(t *testing.T, spec *openapi3.T) []string {
	t.Helper()
	var codes []string
	for _, v := range spec.Components.Schemas["ErrorCode"].Value.Enum {
		codes = append(codes, v.(string))
	}
	slices.Sort(codes)
	return codes
}

// The codes that the program can give, as its sources have them, are the document's: none
// is missing there, and none is there that nothing gives.
func TestCodesInTheSourcesAreTheDocuments(t *testing.T) {
	t.Parallel()
	found := map[string]token.Position{}
	files := token.NewFileSet()
	for _, folder := range []string{"../../ingest", "../../processor", "../../realtime", "../../pkg"} {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, lit := range codesOf(t, files, file) {
				code, err := strconv.Unquote(lit.Value)
				if err != nil {
					return err
				}
				found[code] = files.Position(lit.Pos())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(documentedCodes(t, document(t)), slices.Sorted(maps.Keys(found))); diff != "" {
		t.Errorf("codes (-document +sources):\n%s\nfound at %v", diff, found)
	}
}

// codesOf returns the literals that a file makes codes of: arguments of fault.New,
// fault.Wrap and unavailable, fields of fault.Error, and constants of type partner.Code.
// A code that is no literal cannot be seen by reading: only functions that pass one on,
// whose callers are read, may have such.
func codesOf(t *testing.T, files *token.FileSet, file *ast.File) (codes []*ast.BasicLit) {
	t.Helper()
	passOn := map[string]bool{"unavailable": true, "rejectedAs": true}
	add := func(function string, code ast.Expr) {
		lit, ok := code.(*ast.BasicLit)
		switch {
		case ok:
			codes = append(codes, lit)
		case !passOn[function] && file.Name.Name != "fault":
			t.Errorf("%s: a code that is no literal", files.Position(code.Pos()))
		}
	}
	named := func(e ast.Expr, pkg, name string) bool {
		if selector, ok := e.(*ast.SelectorExpr); ok {
			x, ok := selector.X.(*ast.Ident)
			return ok && x.Name == pkg && selector.Sel.Name == name
		}
		x, ok := e.(*ast.Ident)
		return ok && x.Name == name && file.Name.Name == pkg
	}
	for _, decl := range file.Decls {
		function := ""
		if f, ok := decl.(*ast.FuncDecl); ok {
			function = f.Name.Name
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				switch {
				case named(n.Fun, "fault", "New") || named(n.Fun, "ingest", "unavailable"):
					add(function, n.Args[1])
				case named(n.Fun, "fault", "Wrap"):
					add(function, n.Args[2])
				}
			case *ast.CompositeLit:
				if !named(n.Type, "fault", "Error") {
					break
				}
				for _, field := range n.Elts {
					if pair, ok := field.(*ast.KeyValueExpr); ok && pair.Key.(*ast.Ident).Name == "Code" {
						add(function, pair.Value)
					}
				}
			case *ast.ValueSpec:
				if n.Type != nil && named(n.Type, "partner", "Code") {
					for _, value := range n.Values {
						add(function, value)
					}
				}
			}
			return true
		})
	}
	return codes
}

// What the document's texts say about codes names codes that there are.
func TestDocumentNamesOnlyCodesThatThereAre(t *testing.T) {
	t.Parallel()
	spec := document(t)
	codes := documentedCodes(t, spec)
	word := regexp.MustCompile("`([a-z]+(?:_[a-z]+)*)` ?(?:\\([0-9]{3}\\))?")
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			_, list, _ := strings.Cut(op.Description, "Codes:")
			for _, match := range word.FindAllStringSubmatch(list, -1) {
				if code := match[1]; strings.Contains(code, "_") && !slices.Contains(codes, code) {
					t.Errorf("%s %s: %s is no code", method, path, code)
				}
			}
		}
	}
}
