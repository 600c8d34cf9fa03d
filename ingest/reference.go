package ingest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

//go:embed reference.html
var referencePage string

// referenceTag is one chapter of the page at /docs.
type referenceTag struct {
	Name, Description string
	Operations        []referenceOperation
}

type referenceOperation struct {
	Method, Path, ID, Summary, Description string
	Public                                 bool
	Parameters                             []referenceField
	Body                                   []referenceField
	Example                                string
	Responses                              []referenceResponse
}

type referenceResponse struct {
	Status, Description string
	Fields              []referenceField
}

type referenceField struct {
	Name, Type, Description string
	Required                bool
}

// renderReference makes the page of the document: no script, nothing from elsewhere.
func renderReference(spec *openapi3.T) ([]byte, error) {
	page, err := template.New("reference").Funcs(template.FuncMap{"md": inlineMarkdown}).Parse(referencePage)
	if err != nil {
		return nil, fmt.Errorf("parse reference page: %w", err)
	}
	byTag := map[string][]referenceOperation{}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			tag := op.Tags[0]
			byTag[tag] = append(byTag[tag], operationReference(spec, path, method, item, op))
		}
	}
	var tags []referenceTag
	for _, tag := range spec.Tags {
		operations := byTag[tag.Name]
		slices.SortFunc(operations, func(a, b referenceOperation) int {
			return strings.Compare(a.Path+a.Method, b.Path+b.Method)
		})
		tags = append(tags, referenceTag{Name: tag.Name, Description: tag.Description, Operations: operations})
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]any{
		"Title": spec.Info.Title, "Version": spec.Info.Version,
		"Paragraphs": strings.Split(strings.TrimSpace(spec.Info.Description), "\n\n"), "Tags": tags,
	})
	if err != nil {
		return nil, fmt.Errorf("render reference page: %w", err)
	}
	return out.Bytes(), nil
}

var (
	strongText = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	codeText   = regexp.MustCompile("`([^`]+)`")
)

// inlineMarkdown renders the two marks that the document's texts use. It escapes first.
func inlineMarkdown(text string) template.HTML {
	html := template.HTMLEscapeString(text)
	html = strongText.ReplaceAllString(html, "<strong>$1</strong>")
	html = codeText.ReplaceAllString(html, "<code>$1</code>")
	return template.HTML(html) // #nosec G203 -- escaped above, and the text is our own document
}

func operationReference(spec *openapi3.T, path, method string, item *openapi3.PathItem, op *openapi3.Operation) referenceOperation {
	security := spec.Security
	if op.Security != nil {
		security = *op.Security
	}
	r := referenceOperation{
		Method: method, Path: path, ID: op.OperationID, Summary: op.Summary,
		Description: strings.TrimSpace(op.Description), Public: len(security) == 0,
	}
	for _, p := range append(append(openapi3.Parameters{}, item.Parameters...), op.Parameters...) {
		r.Parameters = append(r.Parameters, referenceField{
			Name: p.Value.Name, Type: p.Value.In + ", " + typeName(p.Value.Schema),
			Description: p.Value.Description, Required: p.Value.Required,
		})
	}
	if op.RequestBody != nil {
		media := op.RequestBody.Value.Content.Get("application/json")
		r.Body = fieldsOf(media.Schema)
		if media.Example != nil {
			if example, err := json.Marshal(media.Example); err == nil {
				r.Example = string(example)
			}
		}
	}
	for status, response := range op.Responses.Map() {
		if status == "default" {
			continue // the problem, the same everywhere
		}
		out := referenceResponse{Status: status}
		if response.Value.Description != nil {
			out.Description = *response.Value.Description
		}
		if media := response.Value.Content.Get("application/json"); media != nil {
			out.Fields = fieldsOf(media.Schema)
		}
		r.Responses = append(r.Responses, out)
	}
	slices.SortFunc(r.Responses, func(a, b referenceResponse) int { return strings.Compare(a.Status, b.Status) })
	return r
}

func fieldsOf(ref *openapi3.SchemaRef) []referenceField {
	var out []referenceField
	for name, property := range ref.Value.Properties {
		out = append(out, referenceField{
			Name: name, Type: typeName(property), Description: property.Value.Description,
			Required: slices.Contains(ref.Value.Required, name),
		})
	}
	slices.SortFunc(out, func(a, b referenceField) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// typeName says in a few words what a schema is.
func typeName(ref *openapi3.SchemaRef) string {
	schema := ref.Value
	name := "any"
	switch {
	case schema.Type.Is("array"):
		name = "list of " + typeName(schema.Items)
	case len(schema.Enum) > 0 && len(schema.Enum) <= 8:
		values := make([]string, len(schema.Enum))
		for i, v := range schema.Enum {
			values[i] = fmt.Sprint(v)
		}
		name = strings.Join(values, " | ")
	case ref.Ref != "":
		name = ref.Ref[strings.LastIndex(ref.Ref, "/")+1:]
	case len(schema.AllOf) == 1:
		name = typeName(schema.AllOf[0])
	case schema.Format != "":
		name = schema.Format
	case schema.Type != nil && len(*schema.Type) > 0:
		name = (*schema.Type)[0]
	}
	if schema.Nullable {
		name += " or null"
	}
	return name
}
