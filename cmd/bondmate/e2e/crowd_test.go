package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/partner"
)

// clutch is four users who share all their pairs, each with two phones at two ingest
// instances, and the history of what they asked for and were told.
type clutch struct {
	t      *testing.T
	began  time.Time
	phones [2][crowd]*phone.Phone
	slots  [crowd]int

	mu         sync.Mutex
	operations []*operation
	requests   []thing // what has come to be, the oldest first, as callers know it
	couples    []thing
	breakups   []thing
}

// thing is a request, a partnership or a breakup; user asked other for it.
type thing struct {
	id          uuid.UUID
	user, other int
}

// operation is one call, with ids in place of the names that the model goes by.
type operation struct {
	asked
	client    int
	thing     uuid.UUID // what it names
	command   uuid.UUID
	from, to  time.Duration
	code      string
	result    outcome
	listed    []uuid.UUID
	occupied  int
	unknown   bool
	readAgain int // answers 202 and 503 on the way
}

// outcome is the result of a command as the API tells it.
type outcome struct {
	RequestID     uuid.UUID `json:"requestId"`
	PartnershipID uuid.UUID `json:"partnershipId"`
	BreakupID     uuid.UUID `json:"breakupId"`
	Crossed       bool      `json:"crossed"`
	Restored      bool      `json:"restored"`
}

// newClutch registers the users. The last one has two slots.
func newClutch(t *testing.T, c *cluster, servers [2]*phone.Server) *clutch {
	t.Helper()
	g := &clutch{t: t, began: time.Now(), slots: [crowd]int{1, 1, 1, 2}}
	for i, p := range people(t, servers[0], crowd) {
		other := *p
		other.Server = servers[1]
		g.phones[0][i], g.phones[1][i] = p, &other
		for slot := 2; slot <= g.slots[i]; slot++ {
			if _, err := c.pool.Exec(t.Context(), `INSERT INTO user_slots (user_id, slot) VALUES ($1, $2)`, p.UserID, slot); err != nil {
				t.Fatal(err)
			}
		}
	}
	return g
}

// live has every phone do one thing after the other until the time is over.
func (g *clutch) live(phones *sync.WaitGroup, until time.Time, random *rand.Rand) {
	for client := range 2 * crowd {
		mine := rand.New(rand.NewPCG(random.Uint64(), uint64(client)))
		phones.Go(func() {
			for time.Now().Before(until) {
				op := g.draw(mine, client)
				if op == nil {
					return
				}
				g.do(op, mine.IntN(8) == 0)
			}
		})
	}
}

// draw picks what a phone does next, mostly something that can succeed.
func (g *clutch) draw(random *rand.Rand, client int) *operation {
	user := client % crowd
	op := &operation{client: client, asked: asked{user: user, other: (user + 1 + random.IntN(crowd-1)) % crowd, named: unnamed}}
	verbs := []struct {
		verb  verb
		share int
	}{
		{doSend, 24}, {doAccept, 22}, {doDecline, 4}, {doCancel, 4}, {doRemove, 12}, {doAskBreakup, 6}, {doAcceptBreakup, 4},
		{doDeclineBreakup, 3}, {doWithdrawBreakup, 3}, {doBlock, 2}, {doUnblock, 4}, {doForfeit, 2},
		{readPartners, 6}, {readRequests, 6}, {readSlots, 3}, {readBreakups, 3},
	}
	left := random.IntN(108)
	for _, v := range verbs {
		if left -= v.share; left < 0 {
			op.verb = v.verb
			break
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.operations) >= maxOperations-2*crowd { // room for the last reads
		return nil
	}
	op.index = len(g.operations)
	g.operations = append(g.operations, op)
	// lately picks one of the last few things that concern the user.
	lately := func(things []thing, fits func(thing) bool) bool {
		var found []thing
		for _, t := range slices.Backward(things) {
			if (t.user == user || t.other == user) && (fits == nil || fits(t) || random.IntN(10) == 0) && len(found) < 4 {
				found = append(found, t)
			}
		}
		if len(found) == 0 {
			return false
		}
		t := found[min(random.IntN(len(found)), random.IntN(len(found)))]
		op.thing, op.other = t.id, t.user+t.other-user
		return true
	}
	byMe := func(t thing) bool { return t.user == user }
	byThem := func(t thing) bool { return t.user != user }
	ok := true
	switch op.verb {
	case doSend:
		op.fresh = random.IntN(8) == 0
	case doAccept:
		op.fresh = random.IntN(8) == 0
		ok = lately(g.requests, byThem)
	case doDecline:
		ok = lately(g.requests, byThem)
	case doCancel:
		ok = lately(g.requests, byMe)
	case doRemove:
		op.quiet = random.IntN(4) == 0
		ok = lately(g.couples, nil)
	case doAskBreakup, doForfeit:
		ok = lately(g.couples, nil)
	case doAcceptBreakup, doDeclineBreakup:
		ok = lately(g.breakups, byThem)
	case doWithdrawBreakup:
		ok = lately(g.breakups, byMe)
	case readPartners, readRequests, readSlots, readBreakups:
		op.other = user
	default:
	}
	if !ok { // there is nothing of the kind yet
		op.verb = doSend
	}
	return op
}

// knownWithin bounds how long a phone asks for one outcome.
const knownWithin = 20 * time.Second

// do carries an operation out and notes what came of it.
func (g *clutch) do(op *operation, hasty bool) {
	op.from = time.Since(g.began)
	defer func() { op.to = time.Since(g.began) }()
	ctx, cancel := context.WithTimeout(g.t.Context(), knownWithin)
	defer cancel()
	p := g.phones[op.client/crowd][op.user]
	switch op.verb {
	case readPartners, readRequests, readSlots, readBreakups:
		g.read(ctx, op, p)
		return
	default:
	}
	method, path, body := g.call(op)
	options := []phone.Option{phone.Key(uuid.NewString())}
	if !hasty {
		options = append(options, phone.Wait(10))
	}
	for ctx.Err() == nil {
		answer, err := p.Do(ctx, method, path, body, options...)
		if err != nil || answer.Status == http.StatusServiceUnavailable {
			op.readAgain++
			pause(ctx, 50*time.Millisecond)
			continue // with the same key: it has one effect
		}
		var got struct {
			CommandID uuid.UUID `json:"commandId"`
			Code      string    `json:"code"`
			Result    outcome   `json:"result"`
			RequestID string    `json:"requestId"` // of a problem another thing
		}
		if err := json.Unmarshal(answer.Body, &got); err != nil {
			g.t.Errorf("%s %s: %d %s: %v", method, path, answer.Status, answer.Body, err)
			return
		}
		op.command, op.code, op.result = got.CommandID, got.Code, got.Result
		switch answer.Status {
		case http.StatusOK, http.StatusNotFound, http.StatusConflict:
		case http.StatusAccepted:
			if id, err := uuid.Parse(got.RequestID); err == nil && op.verb == doSend {
				g.remember(&g.requests, thing{id, op.user, op.other}) // it can be answered at once
			}
			g.poll(ctx, op, p)
		default:
			g.t.Errorf("%s %s: %d %s", method, path, answer.Status, answer.Body)
		}
		g.note(op)
		return
	}
	op.unknown = true
}

// call is the HTTP call of an operation.
func (g *clutch) call(op *operation) (method, path string, body any) {
	const root = "/api/enhanced-partners"
	other := g.phones[0][op.other].UserID.String()
	switch op.verb {
	case doSend:
		return http.MethodPost, root + "/request", map[string]any{"toUserId": other, "fresh": op.fresh}
	case doAccept:
		return http.MethodPut, root + "/request/" + op.thing.String() + "/accept", map[string]any{"fresh": op.fresh}
	case doDecline:
		return http.MethodPut, root + "/request/" + op.thing.String() + "/reject", nil
	case doCancel:
		return http.MethodDelete, root + "/request/" + op.thing.String(), nil
	case doRemove:
		return http.MethodPost, root + "/remove", map[string]any{"partnershipId": op.thing, "quiet": op.quiet}
	case doAskBreakup:
		return http.MethodPost, root + "/breakup", map[string]any{"partnershipId": op.thing}
	case doAcceptBreakup:
		return http.MethodPut, root + "/breakup/" + op.thing.String() + "/accept", nil
	case doDeclineBreakup:
		return http.MethodPut, root + "/breakup/" + op.thing.String() + "/reject", nil
	case doWithdrawBreakup:
		return http.MethodDelete, root + "/breakup/" + op.thing.String(), nil
	case doBlock:
		return http.MethodPut, root + "/blocks/" + other, nil
	case doUnblock:
		return http.MethodDelete, root + "/blocks/" + other, nil
	case doForfeit:
		return http.MethodPost, root + "/restorable/" + op.thing.String() + "/forfeit", nil
	default:
		panic("no call for " + op.verb)
	}
}

// poll asks what became of an accepted command until it is known.
func (g *clutch) poll(ctx context.Context, op *operation, p *phone.Phone) {
	for {
		answer, err := p.Do(ctx, http.MethodGet, "/api/commands/"+op.command.String(), nil)
		var got struct {
			Status string  `json:"status"`
			Code   string  `json:"code"`
			Result outcome `json:"result"`
		}
		switch {
		case err != nil || answer.Status == http.StatusServiceUnavailable:
		case answer.Decode(http.StatusOK, &got) != nil:
			g.t.Errorf("command %s was accepted: %d %s", op.command, answer.Status, answer.Body)
			return
		case got.Status != "accepted":
			op.code, op.result = got.Code, got.Result
			return
		}
		op.readAgain++
		if !pause(ctx, 20*time.Millisecond) {
			op.unknown = true
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// note makes known what came to be.
func (g *clutch) note(op *operation) {
	if op.code != "" || op.unknown {
		return
	}
	if op.verb == doSend && !op.result.Crossed {
		g.remember(&g.requests, thing{op.result.RequestID, op.user, op.other})
	}
	if op.verb == doAccept || op.verb == doSend && op.result.Crossed {
		g.remember(&g.couples, thing{op.result.PartnershipID, op.user, op.other})
	}
	if op.verb == doAskBreakup && !op.result.Crossed {
		g.remember(&g.breakups, thing{op.result.BreakupID, op.user, op.other})
	}
}

func (g *clutch) remember(things *[]thing, t thing) {
	g.mu.Lock()
	defer g.mu.Unlock()
	*things = append(*things, t)
}

// read reads a list, or the count of slots.
func (g *clutch) read(ctx context.Context, op *operation, p *phone.Phone) {
	path := map[verb]string{
		readPartners: "partners", readRequests: "requests?status=pending&limit=100", readSlots: "slots", readBreakups: "breakup-status",
	}[op.verb]
	for ctx.Err() == nil {
		answer, err := p.Do(ctx, http.MethodGet, "/api/enhanced-partners/"+path, nil)
		if err != nil || answer.Status == http.StatusServiceUnavailable {
			op.readAgain++
			pause(ctx, 50*time.Millisecond)
			continue
		}
		var got struct {
			Partners []struct {
				ID uuid.UUID `json:"partnershipId"`
			} `json:"partners"`
			Requests []struct {
				ID uuid.UUID `json:"id"`
			} `json:"requests"`
			Breakups []struct {
				ID uuid.UUID `json:"id"`
			} `json:"breakups"`
			Occupied int `json:"occupied"`
		}
		if err := answer.Decode(http.StatusOK, &got); err != nil {
			g.t.Errorf("%s: %v", path, err)
		}
		for _, list := range [][]struct {
			ID uuid.UUID `json:"id"`
		}{got.Requests, got.Breakups} {
			for _, item := range list {
				op.listed = append(op.listed, item.ID)
			}
		}
		for _, item := range got.Partners {
			op.listed = append(op.listed, item.ID)
		}
		op.occupied = got.Occupied
		return
	}
	op.unknown = true
}

// look has everybody look at everything once more, one after the other, when all that was
// asked for has been carried out, follow-ups too.
func (g *clutch) look() {
	for user := range crowd {
		for _, v := range []verb{readRequests, readPartners} {
			if len(g.operations) == maxOperations {
				return
			}
			op := &operation{client: user, asked: asked{index: len(g.operations), verb: v, user: user, other: user, named: unnamed, settled: true}}
			g.operations = append(g.operations, op)
			g.do(op, false)
		}
	}
}

// closeUnknown finds out what became of commands of which no caller has heard.
func (g *clutch) closeUnknown() {
	ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
	defer cancel()
	for _, op := range g.operations {
		if op.unknown && op.command != uuid.Nil {
			op.unknown = false
			g.poll(ctx, op, g.phones[0][op.user])
			op.to = time.Since(g.began)
		}
	}
}

// history puts the operations in the model's words. The ids of what a command makes derive
// from its own, so what an operation without an answer may have made has a name too.
func (g *clutch) history() (*pairModel, []porcupine.Operation) {
	names := map[uuid.UUID]int{uuid.Nil: unnamed}
	for _, op := range g.operations {
		if op.command == uuid.Nil {
			continue
		}
		switch op.verb {
		case doSend:
			names[partner.RequestIDOf(op.command)], names[partner.PartnershipIDOf(op.command)] = op.index, op.index
		case doAccept:
			names[partner.PartnershipIDOf(op.command)] = op.index
		case doAskBreakup:
			names[partner.BreakupIDOf(op.command)] = op.index
		default:
		}
	}
	name := func(id uuid.UUID) int {
		if n, ok := names[id]; ok {
			return n
		}
		return -2 // nobody asked for it: no order explains it
	}
	m := &pairModel{slots: g.slots}
	var history []porcupine.Operation
	for _, op := range g.operations {
		if op.thing != uuid.Nil {
			op.named = name(op.thing)
		}
		out := applied()
		switch {
		case op.unknown:
			out.unknown, op.to = true, math.MaxInt64
		case op.code != "":
			out.code = op.code
		default:
			r := op.result
			out.request, out.partnership, out.breakup = name(r.RequestID), name(r.PartnershipID), name(r.BreakupID)
			out.crossed, out.restored = r.Crossed, r.Restored
		}
		for _, id := range op.listed {
			out.list = append(out.list, name(id))
		}
		slices.Sort(out.list)
		if op.verb == readSlots {
			out.list = []int{op.occupied}
		}
		m.calls = append(m.calls, op.asked)
		history = append(history, porcupine.Operation{
			ClientId: op.client, Input: op.asked, Output: out, Call: int64(op.from), Return: int64(op.to),
		})
	}
	return m, history
}

// String counts what happened.
func (g *clutch) String() string {
	refusals, again, unknown, applied := map[string]int{}, 0, 0, 0
	for _, op := range g.operations {
		switch {
		case op.unknown:
			unknown++
		case op.code != "":
			refusals[op.code]++
		default:
			applied++
		}
		again += op.readAgain
	}
	return fmt.Sprintf("%d operations: %d applied or read, %d of unknown outcome, refused %v; asked again %d times",
		len(g.operations), applied, unknown, refusals, again)
}
