package ingest

import (
	"fmt"
)

// class is what a call counts against; see rates.
type class string

const (
	// uncounted calls cost next to nothing, and probes and caches must not be turned away.
	uncounted class = "uncounted"
	// byUser is one count for all that a user does, as large as the tier.
	byUser class = "user"
	// byRequest is byUser and, with it, the windows of requests to become partners.
	byRequest class = "partner_request"
	// anonymous counts by address, and so do all below.
	anonymous    class = "anonymous"
	registration class = "registration" // each makes an account
	mailing      class = "mail"         // each may send a mail
	// signingIn is what keeps apps signed in: many may share an address, and nothing of it can be
	// guessed. Passwords have limits of their own, which are in Postgres (pkg/limit).
	signingIn class = "login"
	// probing is by address, too, for what asks the servers on each call.
	probing class = "probe"
	// handshaking is counted by the gateway, wherever it runs: its calls do not come here.
	handshaking class = "handshake"
)

// byUser reports whether the class counts by user: the document must demand one then.
func (c class) byUser() bool { return c == byUser || c == byRequest }

// rank says how early a call is turned away when there is too much to do; see shedding.
type rank int

const (
	never  rank = iota // costs nothing, or tells whether the process lives
	last               // leaving, blocking, deleting; signing in and out; operators
	writes             // other changes
	reads              // one's own state
	lists              // lists and what is large: apps show what they have meanwhile
)

func (r rank) String() string { return [...]string{"never", "last", "writes", "reads", "lists"}[r] }

// conduct is how an operation is treated when there is too much: of one caller, and of all.
type conduct struct {
	class class
	rank  rank
}

// conducts is the one table of that, by operationId.
var conducts = map[string]conduct{
	"root": {uncounted, never}, "health": {uncounted, never}, "apiHealth": {uncounted, never},
	"ready": {uncounted, never}, "live": {uncounted, never},
	"openapiDocument": {uncounted, never}, "asyncapiDocument": {uncounted, never}, "recordSchema": {uncounted, never},
	"docs": {uncounted, never}, "jwks": {uncounted, never},
	"detailedHealth": {probing, never},

	"register":          {registration, writes},
	"login":             {signingIn, last},
	"refresh":           {signingIn, last},
	"loginWithFirebase": {signingIn, last},
	"forgotPassword":    {mailing, writes},
	"resetPassword":     {anonymous, last},
	"verifyEmail":       {anonymous, writes},
	"logout":            {byUser, last},
	"logoutAll":         {byUser, last},
	"changePassword":    {byUser, last},
	"listSessions":      {byUser, reads},
	"endSession":        {byUser, last},

	"deleteAccount":     {byUser, last},
	"exportAccount":     {byUser, lists},
	"getProfile":        {byUser, reads},
	"updateProfile":     {byUser, writes},
	"changePartnerCode": {byUser, writes},
	"sync":              {byUser, reads},
	"listActivity":      {byUser, lists},

	"searchByCode":     {byUser, reads},
	"sendRequest":      {byRequest, writes},
	"listRequests":     {byUser, lists},
	"getRequest":       {byUser, reads},
	"cancelRequest":    {byUser, writes},
	"acceptRequest":    {byUser, writes},
	"rejectRequest":    {byUser, writes},
	"getCurrent":       {byUser, reads},
	"listPartners":     {byUser, lists},
	"getStatistics":    {byUser, lists},
	"getSlots":         {byUser, reads},
	"listHistory":      {byUser, lists},
	"listRestorable":   {byUser, lists},
	"deleteHistory":    {byUser, writes},
	"forfeit":          {byUser, writes},
	"remove":           {byUser, last},
	"removeByDelete":   {byUser, last},
	"requestBreakup":   {byUser, writes},
	"withdrawBreakup":  {byUser, writes},
	"acceptBreakup":    {byUser, writes},
	"rejectBreakup":    {byUser, writes},
	"getBreakupStatus": {byUser, reads},
	"listBlocks":       {byUser, lists},
	"blockUser":        {byUser, last},
	"unblockUser":      {byUser, writes},
	"report":           {byUser, last},

	"listNicknames": {byUser, lists},
	"setNickname":   {byUser, writes},
	"getNickname":   {byUser, reads},
	"clearNickname": {byUser, writes},
	"getCommand":    {byUser, reads},

	"listNotifications": {byUser, lists},
	"readNotifications": {byUser, writes},
	"getPreferences":    {byUser, reads},
	"putPreferences":    {byUser, writes},
	"registerDevice":    {byUser, writes},
	"listDevices":       {byUser, lists},
	"deleteDevice":      {byUser, writes},
	"createTicket":      {byUser, writes},
	"realtime":          {handshaking, never}, // the gateway has bounds of its own

	"showUser": {byUser, last}, "suspendUser": {byUser, last}, "unsuspendUser": {byUser, last},
	"setTier": {byUser, last}, "setSlots": {byUser, last},
	"listReports": {byUser, last}, "showReport": {byUser, last}, "resolveReport": {byUser, last},
	"listParked": {byUser, last}, "showParked": {byUser, last}, "showParkedAction": {byUser, last},
	"readParkedPayload": {byUser, last}, "retryParked": {byUser, last}, "dropParked": {byUser, last},
	"listDeadLetters": {byUser, last}, "showDeadLetter": {byUser, last}, "readDeadLetterPayload": {byUser, last},
	"replayDeadLetter": {byUser, last}, "listDeliveries": {byUser, last},
	"listApiKeys": {byUser, last}, "createApiKey": {byUser, last}, "rotateApiKey": {byUser, last}, "revokeApiKey": {byUser, last},
}

// checkConducts holds the table against the document: an operation that it does not name, a
// name in it that is no operation, and a class that the operation's security does not allow
// are errors, so who forgets a route finds out at the start. authenticated is by operationId.
func checkConducts(authenticated map[string]bool) error {
	for operation, signedIn := range authenticated {
		c, named := conducts[operation]
		switch {
		case !named:
			return fmt.Errorf("operation %s has no conduct: name its class and rank", operation)
		case c.class.byUser() != signedIn && c.class != handshaking:
			return fmt.Errorf("operation %s is counted as %s, and needs a user: %t", operation, c.class, signedIn)
		}
	}
	for operation := range conducts {
		if _, known := authenticated[operation]; !known {
			return fmt.Errorf("conduct of %s, which is no operation", operation)
		}
	}
	return nil
}
