package admin

import "github.com/bondmate/backend/pkg/identity"

// What most operations take.
var (
	anybody = Permission{}
	account = Permission{Least: identity.RoleUser}
)

// permissions is the one table of who may do what, by operationId. Of what is for operators,
// support reads and admin writes; an API key does what one of its scopes names.
var permissions = map[string]Permission{
	"register":          anybody,
	"login":             anybody,
	"loginWithFirebase": anybody,
	"refresh":           anybody,
	"forgotPassword":    anybody,
	"resetPassword":     anybody,
	"verifyEmail":       anybody,
	"jwks":              anybody,

	"realtime": anybody, // the role that serves it asks for a token or a ticket

	"root":             anybody,
	"health":           anybody,
	"apiHealth":        anybody,
	"detailedHealth":   anybody,
	"ready":            anybody,
	"live":             anybody,
	"openapiDocument":  anybody,
	"asyncapiDocument": anybody,
	"recordSchema":     anybody,
	"docs":             anybody,

	"logout":         account,
	"logoutAll":      account,
	"changePassword": account,
	"listSessions":   account,
	"endSession":     account,
	"deleteAccount":  account,
	"exportAccount":  account,

	"getProfile":        account,
	"updateProfile":     account,
	"changePartnerCode": account,
	"sync":              account,
	"listActivity":      account,

	"searchByCode":     account,
	"sendRequest":      account,
	"listRequests":     account,
	"getRequest":       account,
	"cancelRequest":    account,
	"acceptRequest":    account,
	"rejectRequest":    account,
	"getCurrent":       account,
	"listPartners":     account,
	"getStatistics":    account,
	"getSlots":         account,
	"listHistory":      account,
	"listRestorable":   account,
	"deleteHistory":    account,
	"forfeit":          account,
	"remove":           account,
	"removeByDelete":   account,
	"requestBreakup":   account,
	"withdrawBreakup":  account,
	"acceptBreakup":    account,
	"rejectBreakup":    account,
	"getBreakupStatus": account,
	"listBlocks":       account,
	"blockUser":        account,
	"unblockUser":      account,
	"report":           account,

	"listNicknames": account,
	"setNickname":   account,
	"getNickname":   account,
	"clearNickname": account,

	"getCommand": account,

	"listNotifications": account,
	"readNotifications": account,
	"getPreferences":    account,
	"putPreferences":    account,
	"registerDevice":    account,
	"listDevices":       account,
	"deleteDevice":      account,
	"createTicket":      account,

	"showUser":      {Least: identity.RoleSupport, Scope: ReadUsers, Action: "ops.user.show", LookUp: true, Target: "id"},
	"suspendUser":   {Least: identity.RoleAdmin, Scope: WriteUsers, Action: "ops.user.suspend"},
	"unsuspendUser": {Least: identity.RoleAdmin, Scope: WriteUsers, Action: "ops.user.unsuspend"},
	"setTier":       {Least: identity.RoleAdmin, Scope: WriteUsers, Action: "ops.user.tier"},
	"setSlots":      {Least: identity.RoleAdmin, Scope: WriteUsers, Action: "ops.user.slots"},
	"listReports":   {Least: identity.RoleSupport, Scope: ReadReports, Action: "ops.report.list", LookUp: true},
	"showReport":    {Least: identity.RoleSupport, Scope: ReadReports, Action: "ops.report.show", LookUp: true, Subject: "id"},
	"resolveReport": {Least: identity.RoleAdmin, Scope: WriteReports, Action: "ops.report.resolve"},
	// Of parked commands and dead letters most take themselves down: a pair is no user, and
	// a place on a topic no id. What people wrote is for people: no scope.
	"listParked":            {Least: identity.RoleSupport, Scope: ReadParked, Action: "ops.parked.list"},
	"showParked":            {Least: identity.RoleSupport, Scope: ReadParked, Action: "ops.parked.show"},
	"showParkedAction":      {Least: identity.RoleSupport, Scope: ReadParked, Action: "ops.parked.action", LookUp: true, Subject: "id"},
	"readParkedPayload":     {Least: identity.RoleAdmin, Action: "ops.parked.payload"},
	"retryParked":           {Least: identity.RoleAdmin, Scope: WriteParked, Action: "ops.parked.retry"},
	"dropParked":            {Least: identity.RoleAdmin, Scope: WriteParked, Action: "ops.parked.drop"},
	"listDeadLetters":       {Least: identity.RoleSupport, Scope: ReadDeadLetters, Action: "ops.dead_letter.list"},
	"showDeadLetter":        {Least: identity.RoleSupport, Scope: ReadDeadLetters, Action: "ops.dead_letter.show"},
	"readDeadLetterPayload": {Least: identity.RoleAdmin, Action: "ops.dead_letter.payload"},
	"replayDeadLetter":      {Least: identity.RoleAdmin, Scope: WriteDeadLetters, Action: "ops.dead_letter.replay"},
	"listDeliveries":        {Least: identity.RoleSupport, Scope: ReadDeliveries, Action: "ops.delivery.list"},
	// A key never makes, changes or ends one: no scope.
	"listApiKeys":  {Least: identity.RoleAdmin, Action: "ops.key.list"},
	"createApiKey": {Least: identity.RoleAdmin, Action: "ops.key.create"},
	"rotateApiKey": {Least: identity.RoleAdmin, Action: "ops.key.rotate"},
	"revokeApiKey": {Least: identity.RoleAdmin, Action: "ops.key.revoke"},
}
