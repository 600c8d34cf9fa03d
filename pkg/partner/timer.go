package partner

import (
	"strconv"
	"time"

	"github.com/google/uuid"
)

// TimerKind says what is due. The numbers are stored.
type TimerKind uint8

// The timer kinds. A pair has at most one timer of each.
const (
	TimerRequest TimerKind = 1 // a pending request expires
	TimerArchive TimerKind = 2 // an ended partnership can no longer be restored
	TimerBreakup TimerKind = 3 // a breakup without an answer ends the partnership

	// Of a user or a pair whose record on a compacted topic has to be written, from what
	// the tables hold when the timer is applied. No decision sets or sees them. The Again
	// ones are apart, so that neither moves the other: they write once more what a late
	// write of a former owner could have covered.
	TimerUser        TimerKind = 4 // on user:user
	TimerCouple      TimerKind = 5
	TimerUserAgain   TimerKind = 6 // on user:user
	TimerCoupleAgain TimerKind = 7

	// On user:user: an operator has changed the user's tier or slots.
	TimerAllowance TimerKind = 8
)

// Publishes reports whether the timer writes a record instead of letting something happen.
// It has no place in the order of the pair's commands, so it need not wait for them.
func (k TimerKind) Publishes() bool { return k >= TimerUser && k <= TimerCoupleAgain }

// Timer is something that happens on a pair by itself. A Decision sets it (again), or
// cancels it when Due is zero.
type Timer struct {
	Kind TimerKind
	Pair Pair
	Ref  uuid.UUID // the request, partnership or breakup
	Due  time.Time // the last instant before it happens, as all limits are inclusive
}

// DecideDue applies what is due on a pair at a time at which no command does. The state is
// loaded as for a command without any named request or breakup; the users are the pair's
// two. It does the same as a command accepted just after the timer's Due would have done
// first, and nothing, with no event, when a command has: then only the timer's row goes. A
// TimerAllowance does what follows from the change that set it; its state has the user's
// Pending.
//
// The events' CommandID is TimerID, which is no row of commands. Outcome is applied.
func DecideDue(limits Limits, st State, timer Timer) Decision {
	// Times are kept in microseconds: this is the first at which the limit is over.
	at := timer.Due.Add(time.Microsecond)
	t := newTurn(limits, st, Command{ID: TimerID(timer), Pair: st.Pair.Pair, AcceptedAt: at, Cause: timer.Ref})
	t.applyDue()
	if timer.Kind == TimerAllowance {
		t.allowanceChanged()
	}
	return t.done(Outcome{})
}

// TimerID returns what stands for the command's id in the events of a timer.
func TimerID(timer Timer) uuid.UUID {
	name := strconv.AppendInt([]byte("timer/"+strconv.Itoa(int(timer.Kind))+"/"), timer.Due.UnixMicro(), 10)
	return uuid.NewSHA1(timer.Ref, name)
}

// setTimer sets the pair's timer of a kind; of several settings in one decision only the
// last is written.
func (t *turn) setTimer(kind TimerKind, ref uuid.UUID, due time.Time) {
	timer := Timer{Kind: kind, Pair: t.pair.Pair, Ref: ref, Due: due}
	for i := range t.decision.Timers {
		if t.decision.Timers[i].Kind == kind {
			t.decision.Timers[i] = timer
			return
		}
	}
	t.decision.Timers = append(t.decision.Timers, timer)
}

func (t *turn) cancelTimer(kind TimerKind, ref uuid.UUID) { t.setTimer(kind, ref, time.Time{}) }
