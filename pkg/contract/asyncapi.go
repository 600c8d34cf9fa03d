package contract

import _ "embed"

// AsyncAPI is the document of the topics and of the WebSocket, in YAML. It refers to the
// schemas as schemas/{type}.json, so it is served beside them.
//
//go:embed asyncapi.yaml
var AsyncAPI []byte
