package fcm

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// Answer is one scripted answer to messages:send. The zero value accepts the message.
type Answer struct {
	Status int           // HTTP status; 0 means 200
	Header http.Header   // added to the answer's
	Body   string        // default: what FCM says for the status
	Delay  time.Duration // before anything is recorded and answered
	Drop   bool          // cut the connection instead of answering
	// Reaches: the phone gets the push, though it is answered otherwise, or not at all. FCM has
	// done that.
	Reaches bool
	Times   int // how many calls it answers; 0 means one, negative means every one
}

func (a Answer) status() int {
	switch {
	case a.Drop:
		return 0
	case a.Status == 0:
		return http.StatusOK
	default:
		return a.Status
	}
}

func (a Answer) write(w http.ResponseWriter) {
	for k, vs := range a.Header {
		w.Header()[http.CanonicalHeaderKey(k)] = vs
	}
	body := a.Body
	if body == "" && a.status() == http.StatusOK {
		body = accepted()
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(a.status())
	_, _ = io.WriteString(w, body) // a caller that has gone is what some scripts are for
}

// RetryAfter returns the answer with a Retry-After header of whole seconds.
func (a Answer) RetryAfter(seconds string) Answer {
	a.Header = a.Header.Clone()
	if a.Header == nil {
		a.Header = http.Header{}
	}
	a.Header.Set("Retry-After", seconds)
	return a
}

// Refuse returns FCM's error answer: an HTTP status, its canonical code such as
// NOT_FOUND, and the FcmError code of the details such as UNREGISTERED. An empty fcmCode
// leaves the details out, as proxies and wrong URLs do.
func Refuse(status int, code, fcmCode string) Answer {
	return refusal(status, code, fcmCode, code)
}

func refusal(status int, code, fcmCode, text string) Answer {
	type detail struct {
		Type      string `json:"@type"`
		ErrorCode string `json:"errorCode"`
	}
	var body struct {
		Error struct {
			Code    int      `json:"code"`
			Message string   `json:"message"`
			Status  string   `json:"status"`
			Details []detail `json:"details,omitempty"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message, body.Error.Status = status, text, code
	if fcmCode != "" {
		body.Error.Details = []detail{{"type.googleapis.com/google.firebase.fcm.v1.FcmError", fcmCode}}
	}
	b, err := json.Marshal(body)
	if err != nil {
		b = []byte("{}") // cannot happen: the body holds strings and a number
	}
	return Answer{Status: status, Body: string(b)}
}

// script is a queue of answers for the devices whose token has a prefix.
type script struct {
	prefix  string
	answers []Answer
}

// Script queues answers for messages to tokens with a prefix; "" means every token.
// Among scripts that match, the longest prefix answers first, and of one prefix in the
// order queued. When all are used up the message is accepted.
func (s *Server) Script(prefix string, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.scripts {
		if sc.prefix == prefix {
			sc.answers = append(sc.answers, answers...)
			return
		}
	}
	s.scripts = append(s.scripts, &script{prefix: prefix, answers: append([]Answer(nil), answers...)})
}

// ClearScripts forgets all answers still queued: everything is accepted again.
func (s *Server) ClearScripts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts = nil
}

func (s *Server) answerFor(token string) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *script
	for _, sc := range s.scripts {
		if len(sc.answers) > 0 && strings.HasPrefix(token, sc.prefix) && (best == nil || len(sc.prefix) > len(best.prefix)) {
			best = sc
		}
	}
	if best == nil {
		return Answer{}
	}
	answer := best.answers[0]
	switch {
	case answer.Times < 0:
	case answer.Times <= 1:
		best.answers = best.answers[1:]
	default:
		best.answers[0].Times--
	}
	return answer
}
