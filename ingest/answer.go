package ingest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/ingest/api"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

// maxWait is the longest wait for an outcome; a longer wish is cut to it.
const maxWait = 10 * time.Second

// preferredWait reads wait=N from a Prefer header (RFC 7240). A preference that is not
// understood is ignored, as the RFC says.
func preferredWait(prefer *string) time.Duration {
	if prefer == nil {
		return 0
	}
	for part := range strings.SplitSeq(*prefer, ",") {
		part, _, _ = strings.Cut(part, ";")
		name, value, _ := strings.Cut(part, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
		if err != nil {
			return 0
		}
		return min(time.Duration(seconds)*time.Second, maxWait)
	}
	return 0
}

// commandAnswer is the 200 or 202 of any command; the operations share their shapes.
type commandAnswer struct {
	status  int
	headers http.Header
	body    any
}

func (a commandAnswer) write(w http.ResponseWriter) error {
	body, err := json.Marshal(a.body)
	if err != nil {
		return err
	}
	header := w.Header()
	for name, values := range a.headers {
		header[name] = values
	}
	header.Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(append(body, '\n')) // the caller left: nothing to tell
	return nil
}

// VisitSendRequestResponse implements the generated response interface, as do the rest.
func (a commandAnswer) VisitSendRequestResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitAcceptRequestResponse implements api.AcceptRequestResponseObject.
func (a commandAnswer) VisitAcceptRequestResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitRejectRequestResponse implements api.RejectRequestResponseObject.
func (a commandAnswer) VisitRejectRequestResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitCancelRequestResponse implements api.CancelRequestResponseObject.
func (a commandAnswer) VisitCancelRequestResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitRemoveResponse implements api.RemoveResponseObject.
func (a commandAnswer) VisitRemoveResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitRemoveByDeleteResponse implements api.RemoveByDeleteResponseObject.
func (a commandAnswer) VisitRemoveByDeleteResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitUpdateProfileResponse implements api.UpdateProfileResponseObject.
func (a commandAnswer) VisitUpdateProfileResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitChangePartnerCodeResponse implements api.ChangePartnerCodeResponseObject.
func (a commandAnswer) VisitChangePartnerCodeResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitSetNicknameResponse implements api.SetNicknameResponseObject.
func (a commandAnswer) VisitSetNicknameResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitClearNicknameResponse implements api.ClearNicknameResponseObject.
func (a commandAnswer) VisitClearNicknameResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitBlockUserResponse implements api.BlockUserResponseObject.
func (a commandAnswer) VisitBlockUserResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitUnblockUserResponse implements api.UnblockUserResponseObject.
func (a commandAnswer) VisitUnblockUserResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitRequestBreakupResponse implements api.RequestBreakupResponseObject.
func (a commandAnswer) VisitRequestBreakupResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitAcceptBreakupResponse implements api.AcceptBreakupResponseObject.
func (a commandAnswer) VisitAcceptBreakupResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitRejectBreakupResponse implements api.RejectBreakupResponseObject.
func (a commandAnswer) VisitRejectBreakupResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitWithdrawBreakupResponse implements api.WithdrawBreakupResponseObject.
func (a commandAnswer) VisitWithdrawBreakupResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitForfeitResponse implements api.ForfeitResponseObject.
func (a commandAnswer) VisitForfeitResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitReadNotificationsResponse implements api.ReadNotificationsResponseObject.
func (a commandAnswer) VisitReadNotificationsResponse(w http.ResponseWriter) error {
	return a.write(w)
}

// VisitDeleteAccountResponse implements api.DeleteAccountResponseObject.
func (a commandAnswer) VisitDeleteAccountResponse(w http.ResponseWriter) error { return a.write(w) }

// answerTo turns a verdict into the answer, or into the problem of a rejection.
func answerTo(in *intent, v verdict) (commandAnswer, error) {
	headers := answerHeaders(in, v.replayed)
	out := v.outcome
	if out == nil {
		body := api.AcceptedCommand{CommandId: in.id, Status: api.AcceptedCommandStatusAccepted}
		if in.kind == partner.Send {
			requestID := partner.RequestIDOf(in.id)
			body.RequestId = &requestID
		}
		return commandAnswer{status: http.StatusAccepted, headers: headers, body: body}, nil
	}
	if !out.applied() {
		return commandAnswer{}, &rejection{fault: rejectedAs(out.code()), commandID: in.id, headers: headers}
	}
	body := api.AppliedCommand{
		CommandId: in.id, Status: api.AppliedCommandStatusApplied, Result: out.result(), Seq: out.Seq,
	}
	var named struct {
		RequestID *uuid.UUID `json:"requestId"`
	}
	if err := json.Unmarshal(body.Result, &named); err == nil {
		body.RequestId = named.RequestID
	}
	return commandAnswer{status: http.StatusOK, headers: headers, body: body}, nil
}

func answerHeaders(in *intent, replayed bool) http.Header {
	h := http.Header{"Location": {"/api/commands/" + in.id.String()}}
	if in.wait > 0 {
		h.Set("Preference-Applied", "wait="+strconv.Itoa(int(in.wait.Seconds())))
	}
	if replayed {
		h.Set("Idempotency-Replayed", "true")
	}
	return h
}

// rejectionDetails says for people what the core's codes mean.
var rejectionDetails = map[partner.Code]string{
	partner.CodeSelfRequest:       "One cannot ask oneself.",
	partner.CodeUserNotFound:      "There is no such user.",
	partner.CodeAlreadyPartners:   "You are partners already.",
	partner.CodeRequestPending:    "You have already asked.",
	partner.CodeNoVacantSlot:      "You have no vacant place for another partner.",
	partner.CodeTargetUnavailable: "The other one cannot be asked now.",
	partner.CodeBlockedByYou:      "You have blocked this user.",
	partner.CodeCooldown:          "It is too early to ask again.",
	partner.CodeNotFound:          "There is nothing like that.",
	partner.CodeNotPending:        "It is not pending any more.",
	partner.CodeNotCurrent:        "The partnership is not current.",
	partner.CodeAccountDeleting:   "The account is being deleted.",
	partner.CodeForbidden:         "This account is suspended.",
	partner.CodeStale:             "The command came too late to be carried out; send it again.",
}

// rejectedAs is the fault of a rejected command: 404 for what is not there, 403 for who may
// not, 409 otherwise.
func rejectedAs(code string) *fault.Error {
	kind := fault.Conflict
	switch partner.Code(code) {
	case partner.CodeNotFound, partner.CodeUserNotFound:
		kind = fault.NotFound
	case partner.CodeForbidden:
		kind = fault.Forbidden
	default:
	}
	detail, ok := rejectionDetails[partner.Code(code)]
	if !ok {
		detail = "The command was rejected."
	}
	return fault.New(kind, code, detail)
}
