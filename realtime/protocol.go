package realtime

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Subprotocol names the protocol in Sec-WebSocket-Protocol. A client that offers
// subprotocols must offer this one; a client that offers none is taken to speak it.
const Subprotocol = "bondmate.v1"

// The close codes of the protocol beyond those of RFC 6455.
const (
	CloseUnauthenticated = 4001 // no valid hello in time
	CloseTokenExpired    = 4003 // refresh, then resume
	CloseSessionRevoked  = 4004 // wipe
	CloseTooSlow         = 4008 // resume
	CloseTooManySockets  = 4029
)

// The reasons of a resync frame: why the events between what the client holds and the
// head cannot be sent. It reads its whole state again and continues after the head.
const (
	ResyncEpoch   = "epoch_changed" // the sequences belong to another history
	ResyncAhead   = "after_ahead"   // the client is ahead of this history
	ResyncHistory = "history_gone"  // retention removed what comes after
)

// The codes of an error frame. The socket stays open. An auth message can also be
// answered with the code that the token's verification ended in.
const (
	codeUnknownOp = "unknown_op"
	codeInvalid   = "invalid_request"
	codeForbidden = "forbidden"
)

// message is any message of a client. Fields that an operation does not know are ignored.
type message struct {
	Op          string  `json:"op"`
	Ticket      string  `json:"ticket"`
	After       *int64  `json:"after"`
	Epoch       *string `json:"epoch"`
	DeviceID    string  `json:"deviceId"`
	Visible     bool    `json:"visible"`
	Seq         *int64  `json:"seq"`
	On          *bool   `json:"on"`
	AccessToken string  `json:"accessToken"`
}

type readyFrame struct {
	Op     string    `json:"op"`
	UserID uuid.UUID `json:"userId"`
	// Seq is the head of the inbox. When resumed, the events after the client's own
	// position follow, up to the head and on; when not, those after the head.
	Seq       int64  `json:"seq"`
	Epoch     string `json:"epoch"`
	Resumed   bool   `json:"resumed"`
	Heartbeat int    `json:"heartbeat"` // seconds between pings
}

type resyncFrame struct {
	Op     string `json:"op"`
	Reason string `json:"reason"`
	Seq    int64  `json:"seq"`
	Epoch  string `json:"epoch"`
}

// presenceFrame says whether a partner is online, and when they were last seen: nil when that
// is not known, or no longer shared.
type presenceFrame struct {
	Op         string     `json:"op"`
	UserID     uuid.UUID  `json:"userId"`
	Online     bool       `json:"online"`
	LastSeenAt *time.Time `json:"lastSeenAt"`
}

type expiringFrame struct {
	Op   string `json:"op"`
	InMs int64  `json:"inMs"`
}

type pongFrame struct {
	Op  string `json:"op"`
	Seq int64  `json:"seq"`
}

type errorFrame struct {
	Op   string `json:"op"`
	Code string `json:"code"`
}

type closeReason struct {
	RetryAfterMs int64 `json:"retryAfterMs"`
}

// encode returns the JSON of one of the structs above, which cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("realtime: encode frame: " + err.Error())
	}
	return b
}

// eventTail returns all of an event frame that is the same for every recipient: it is
// encoded once, and eventFrame puts each recipient's sequence before it.
func eventTail(id uuid.UUID, kind string, at time.Time, data json.RawMessage) []byte {
	b := make([]byte, 0, 128+len(data))
	b = append(b, `,"id":"`...)
	b = append(b, id.String()...)
	b = append(b, `","type":`...)
	b = appendText(b, kind)
	b = append(b, `,"time":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","data":`...)
	if len(data) == 0 {
		data = json.RawMessage(`{}`)
	}
	b = append(b, data...)
	return append(b, '}')
}

// appendText appends a JSON string. Types of events are plain, and need no encoder.
func appendText(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		if (c < 'a' || c > 'z') && c != '.' && c != '_' {
			return append(b, encode(text)...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

func eventFrame(seq int64, tail []byte) []byte {
	const head = `{"op":"event","seq":`
	b := make([]byte, 0, len(head)+20+len(tail))
	b = append(b, head...)
	b = strconv.AppendInt(b, seq, 10)
	return append(b, tail...)
}
