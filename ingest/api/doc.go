// Package api is the Go side of the OpenAPI document: models, parameter binding and the
// strict server interface, generated from ../openapi.yaml. The document is the source;
// nothing in api.gen.go is edited by hand.
package api

import "encoding/json"

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config oapi-codegen.yaml ../openapi.yaml

// Raw is JSON that goes out as it was stored.
type Raw = json.RawMessage
