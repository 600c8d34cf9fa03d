package edge

import (
	"net/http"
	"strings"
)

// BearerToken returns the token of a request's Authorization header (RFC 6750); false
// unless there is one such header and it says Bearer, in any case. Of two headers
// another server on the way may have looked at the other one, so two are none. Nothing
// else of a request is looked at: not its query, which is logged, nor its cookies, which
// browsers send along for any page.
func BearerToken(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	return token, token != "" && strings.EqualFold(scheme, "Bearer")
}
