package processor

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/bondmate/backend/pkg/partner"
)

// rules are the core's two functions, replaced only by tests of what happens when they fail.
type rules struct {
	onCommand func(partner.Limits, partner.State, partner.Command) partner.Decision
	onTimer   func(partner.Limits, partner.State, partner.Timer) partner.Decision
}

// panicError is a panic of the core. The core is pure and its state is thrown away with
// the transaction, so going on is safe; and since the same command panics whenever it is
// decided on, ending the process would end it again at every start. Alone in its
// transaction, such a command parks its pair like any other that fails for good.
type panicError struct {
	what  string
	stack []byte
}

func (e *panicError) Error() string { return "panic: " + e.what }

// caught is deferred around a function of the core.
func caught(err *error) {
	switch v := recover().(type) {
	case nil:
	case runtime.Error:
		*err = &panicError{v.Error(), debug.Stack()}
	default:
		// Its text might be a person's, and this error is stored and shown.
		*err = &panicError{fmt.Sprintf("%T", v), debug.Stack()}
	}
}

func (r rules) decide(limits partner.Limits, st partner.State, cmd partner.Command) (d partner.Decision, err error) {
	defer caught(&err)
	return r.onCommand(limits, st, cmd), nil
}

func (r rules) decideDue(limits partner.Limits, st partner.State, t partner.Timer) (d partner.Decision, err error) {
	defer caught(&err)
	return r.onTimer(limits, st, t), nil
}
