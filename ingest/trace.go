package ingest

import "net/http"

// traceparent returns the caller's W3C trace context (version 00), or "" when it has none
// that is well formed: it goes into a header of every record that follows.
func traceparent(r *http.Request) string {
	const form = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	v := r.Header.Get("traceparent")
	if len(v) != len(form) || v[:3] != "00-" {
		return ""
	}
	for i := range len(v) {
		c := v[i]
		if form[i] == '-' {
			if c != '-' {
				return ""
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return v
}
