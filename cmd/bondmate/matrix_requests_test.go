package main

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/contract"
)

// goodRequests has a request to every operation that is good in every respect, with what
// it names made for it. What belongs to somebody belongs to the owner.
var goodRequests = map[string]func(*cast) good{
	"register": func(*cast) good {
		return good{each: func() any {
			return map[string]any{"email": uuid.NewString() + "@example.org", "password": secret, "displayName": "Somebody"}
		}}
	},
	"login":             func(c *cast) good { return good{body: map[string]any{"email": c.owner.email, "password": secret}} },
	"loginWithFirebase": func(*cast) good { return good{body: map[string]any{"idToken": "eyJhbGciOiJSUzI1NiJ9.e30.x"}} },
	"refresh": func(c *cast) good {
		login := c.owner.call("POST", "/api/auth/login", map[string]any{"email": c.owner.email, "password": secret}).want(200)
		return good{body: map[string]any{"refreshToken": login.text("refreshToken")}}
	},
	"forgotPassword":   func(c *cast) good { return good{body: map[string]any{"email": c.owner.email}} },
	"resetPassword":    func(*cast) good { return good{body: map[string]any{"token": uuid.NewString(), "next": secret + " 2"}} },
	"verifyEmail":      func(*cast) good { return good{body: map[string]any{"token": uuid.NewString()}} },
	"jwks":             nothing,
	"root":             nothing,
	"health":           nothing,
	"apiHealth":        nothing,
	"detailedHealth":   nothing,
	"ready":            nothing,
	"live":             nothing,
	"openapiDocument":  nothing,
	"asyncapiDocument": nothing,
	"docs":             nothing,
	"recordSchema":     func(*cast) good { return good{vars: map[string]string{"file": "request.received.json"}} },
	"realtime": func(*cast) good {
		return good{header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {"bondmate.v1"},
		}}
	},

	"logout":         nothing,
	"logoutAll":      nothing,
	"changePassword": func(*cast) good { return good{body: map[string]any{"current": secret, "next": secret + " 2"}} },
	"listSessions":   nothing,
	"endSession": func(c *cast) good {
		second := *c.owner
		second.token = second.call("POST", "/api/auth/login", map[string]any{"email": c.owner.email, "password": secret}).want(200).text("accessToken")
		return named("id", session(&second))
	},
	"deleteAccount":     func(*cast) good { return good{body: map[string]any{"password": secret}} },
	"exportAccount":     nothing,
	"getProfile":        nothing,
	"updateProfile":     func(*cast) good { return good{body: map[string]any{"theme": "water"}} },
	"changePartnerCode": nothing,
	"sync":              nothing,
	"listActivity":      nothing,

	"searchByCode": func(c *cast) good { return good{query: "code=" + c.somebody().code} },
	"sendRequest":  func(c *cast) good { return good{body: map[string]any{"toUserId": c.somebody().id}} },
	"listRequests": nothing,
	"getRequest": func(c *cast) good {
		return named("requestId", c.owner.call("POST", partners+"/request",
			map[string]any{"toUserId": c.somebody().id, "message": c.mark}).want(200).text("requestId"))
	},
	"cancelRequest":  func(c *cast) good { return named("requestId", c.owner.ask(c.somebody()).want(200).text("requestId")) },
	"acceptRequest":  func(c *cast) good { return named("requestId", c.somebody().ask(c.owner).want(200).text("requestId")) },
	"rejectRequest":  func(c *cast) good { return named("requestId", c.somebody().ask(c.owner).want(200).text("requestId")) },
	"getCurrent":     nothing,
	"listPartners":   nothing,
	"getStatistics":  nothing,
	"getSlots":       nothing,
	"listHistory":    nothing,
	"listRestorable": nothing,
	"deleteHistory":  func(c *cast) good { return named("partnershipId", c.former()) },
	"forfeit":        func(c *cast) good { return named("partnershipId", c.former()) },
	"remove":         func(c *cast) good { return good{body: map[string]any{"partnershipId": c.partner().partnershipID}} },
	"removeByDelete": func(c *cast) good { return good{query: "partnershipId=" + c.partner().partnershipID} },
	"requestBreakup": func(c *cast) good {
		return good{body: map[string]any{"partnershipId": c.partner().partnershipID, "reason": c.mark}}
	},
	"withdrawBreakup":  func(c *cast) good { return named("breakupId", c.parting(true)) },
	"acceptBreakup":    func(c *cast) good { return named("breakupId", c.parting(false)) },
	"rejectBreakup":    func(c *cast) good { return named("breakupId", c.parting(false)) },
	"getBreakupStatus": nothing,
	"listBlocks":       nothing,
	"blockUser":        func(c *cast) good { return named("userId", c.somebody().id.String()) },
	"unblockUser": func(c *cast) good {
		blocked := c.somebody().id.String()
		c.owner.call("PUT", partners+"/blocks/"+blocked, nil).want(200)
		return named("userId", blocked)
	},
	"report": func(c *cast) good {
		return good{body: map[string]any{"targetUserId": c.somebody().id, "reason": "spam"}}
	},

	"listNicknames": nothing,
	"setNickname": func(c *cast) good {
		return good{body: map[string]any{"targetUserId": c.mate.id, "nickname": "Bär " + c.mark}}
	},
	"getNickname": func(c *cast) good { return named("targetUserId", c.mate.id.String()) },
	"clearNickname": func(c *cast) good {
		p := c.partner()
		c.owner.call("POST", "/api/nicknames", map[string]any{"targetUserId": p.id, "nickname": c.mark}).want(200)
		return named("targetUserId", p.id.String())
	},
	"getCommand": func(c *cast) good {
		return named("id", c.owner.call("POST", "/api/profile/partner-code", nil).want(200).text("commandId"))
	},

	"listNotifications": nothing,
	"readNotifications": func(*cast) good { return good{body: map[string]any{"seq": 1}} },
	"getPreferences":    nothing,
	"putPreferences":    func(*cast) good { return good{body: map[string]any{"preview": "full"}} },
	"registerDevice":    func(*cast) good { return good{each: func() any { return device() }} },
	"listDevices":       nothing,
	"deleteDevice": func(c *cast) good {
		return named("id", c.owner.call("POST", "/api/devices", device()).want(201).text("id"))
	},
	"createTicket": nothing,

	"showUser":      func(c *cast) good { return named("id", c.owner.id.String()) },
	"suspendUser":   func(c *cast) good { return named("id", c.somebody().id.String()) },
	"unsuspendUser": func(c *cast) good { return named("id", c.somebody().id.String()) },
	"setTier": func(c *cast) good {
		return good{vars: map[string]string{"id": c.somebody().id.String()}, body: map[string]any{"tier": "premium"}}
	},
	"setSlots": func(c *cast) good {
		return good{vars: map[string]string{"id": c.somebody().id.String()}, body: map[string]any{"total": 2}}
	},
	"listReports": nothing,
	"showReport":  func(c *cast) good { return named("id", c.reported()) },
	"resolveReport": func(c *cast) good {
		return good{anew: func() map[string]string { return map[string]string{"id": c.reported()} }, body: map[string]any{"resolution": "dismissed"}}
	},
	"listParked":        nothing,
	"showParked":        func(c *cast) good { return named("id", c.parked()) },
	"readParkedPayload": func(c *cast) good { return named("id", c.parked()) },
	"retryParked": func(c *cast) good {
		return good{vars: map[string]string{"id": c.parked()}, body: map[string]any{"dryRun": true}}
	},
	"dropParked": func(c *cast) good {
		return good{anew: func() map[string]string { return map[string]string{"id": c.parked()} }, body: map[string]any{"wholePair": true}}
	},
	"showParkedAction":      func(c *cast) good { return named("id", c.parkedAction()) },
	"listDeadLetters":       nothing,
	"showDeadLetter":        func(c *cast) good { return named("id", c.deadLetter()) },
	"readDeadLetterPayload": func(c *cast) good { return named("id", c.deadLetter()) },
	"replayDeadLetter": func(c *cast) good {
		return good{vars: map[string]string{"id": c.deadLetter()}, body: map[string]any{"force": true}}
	},
	"listDeliveries": func(*cast) good { return good{query: "eventId=" + uuid.NewString()} },
	"listApiKeys":    nothing,
	"createApiKey":   func(*cast) good { return good{each: func() any { return keyOrder() }} },
	"rotateApiKey":   func(c *cast) good { return named("id", c.otherKey()) },
	"revokeApiKey":   func(c *cast) good { return named("id", c.otherKey()) },
}

// keyOrder asks for an API key with all scopes.
func keyOrder() map[string]any {
	return map[string]any{"name": "matrix-" + uuid.NewString()[:8], "scopes": admin.Scopes()}
}

func nothing(*cast) good { return good{} }

// named is a request whose path names one thing.
func named(name, value string) good { return good{vars: map[string]string{name: value}} }

func device() map[string]any {
	return map[string]any{"kind": "fcm", "token": "token-" + uuid.NewString(), "platform": "android"}
}

// breakRecord makes a record that nothing can read, and notes its key.
func breakRecord(key *string) func(*contract.Record) {
	return func(rec *contract.Record) { rec.Value, *key = rec.Value[1:], string(rec.Key) }
}
