package admin

import (
	"fmt"
	"strings"

	"github.com/bondmate/backend/pkg/identity"
)

// Permission says who may call an operation, and how the activity log names it.
type Permission struct {
	Least  identity.Role
	Action string // in the activity log
	// LookUp: the operation only reads, and the gate takes it down before it runs. What
	// changes something takes itself down, in its own transaction (Service.act).
	LookUp bool
	// Target and Subject name the path parameters, if any, that are the user whom a look-up
	// is about, and another thing that it is about.
	Target, Subject string
}

// permissions is the one table of who may do what, by operationId: support reads, admin
// writes.
var permissions = map[string]Permission{
	"showUser":      {Least: identity.RoleSupport, Action: "ops.user.show", LookUp: true, Target: "id"},
	"suspendUser":   {Least: identity.RoleAdmin, Action: "ops.user.suspend"},
	"unsuspendUser": {Least: identity.RoleAdmin, Action: "ops.user.unsuspend"},
	"setTier":       {Least: identity.RoleAdmin, Action: "ops.user.tier"},
	"setSlots":      {Least: identity.RoleAdmin, Action: "ops.user.slots"},
	"listReports":   {Least: identity.RoleSupport, Action: "ops.report.list", LookUp: true},
	"showReport":    {Least: identity.RoleSupport, Action: "ops.report.show", LookUp: true, Subject: "id"},
	"resolveReport": {Least: identity.RoleAdmin, Action: "ops.report.resolve"},
	// Of parked commands and dead letters most take themselves down: a pair is no user, and
	// a place on a topic no id.
	"listParked":            {Least: identity.RoleSupport, Action: "ops.parked.list"},
	"showParked":            {Least: identity.RoleSupport, Action: "ops.parked.show"},
	"showParkedAction":      {Least: identity.RoleSupport, Action: "ops.parked.action", LookUp: true, Subject: "id"},
	"readParkedPayload":     {Least: identity.RoleAdmin, Action: "ops.parked.payload"},
	"retryParked":           {Least: identity.RoleAdmin, Action: "ops.parked.retry"},
	"dropParked":            {Least: identity.RoleAdmin, Action: "ops.parked.drop"},
	"listDeadLetters":       {Least: identity.RoleSupport, Action: "ops.dead_letter.list"},
	"showDeadLetter":        {Least: identity.RoleSupport, Action: "ops.dead_letter.show"},
	"readDeadLetterPayload": {Least: identity.RoleAdmin, Action: "ops.dead_letter.payload"},
	"replayDeadLetter":      {Least: identity.RoleAdmin, Action: "ops.dead_letter.replay"},
}

// Guarded reports whether a path is for operators alone.
func Guarded(path string) bool {
	return strings.HasPrefix(path, "/api/ops/") || strings.HasPrefix(path, "/api/monitoring/")
}

// Permissions returns what the operations for operators demand, by operationId; paths are
// the paths of all operations. An operation for operators that the table does not name is
// an error, and so is a name in it that is no operation of theirs: who forgets either
// finds out at the start.
func Permissions(paths map[string]string) (map[string]*Permission, error) {
	for operation, path := range paths {
		if _, named := permissions[operation]; !named && Guarded(path) {
			return nil, fmt.Errorf("operation %s of %s has no permission", operation, path)
		}
	}
	demanded := make(map[string]*Permission, len(permissions))
	for operation, p := range permissions {
		if !Guarded(paths[operation]) {
			return nil, fmt.Errorf("permission of %s, which is no operation for operators", operation)
		}
		demanded[operation] = &p
	}
	return demanded, nil
}
