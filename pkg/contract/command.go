package contract

import (
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/partner"
)

// commandJSON is the data of a record on the commands topic. Ids and times are plain
// strings so that decoding never calls back into reflection and never quotes a value.
type commandJSON struct {
	CommandID     string `json:"commandId"`
	Type          string `json:"type"`
	Version       int    `json:"version"`
	Issuer        string `json:"issuer"`
	Pair          string `json:"pair"`
	AcceptedAt    string `json:"acceptedAt"`
	Fingerprint   string `json:"fingerprint"`
	Cause         string `json:"cause,omitempty"`
	RequestID     string `json:"requestId,omitempty"`
	PartnershipID string `json:"partnershipId,omitempty"`
	Message       string `json:"message,omitempty"`
	Reason        string `json:"reason,omitempty"`
	Fresh         bool   `json:"fresh,omitempty"`
	Quiet         bool   `json:"quiet,omitempty"`
	More          bool   `json:"more,omitempty"`
	BreakupID     string `json:"breakupId,omitempty"`
	Nickname      string `json:"nickname,omitempty"`
	Address       string `json:"address,omitempty"`
	Device        string `json:"device,omitempty"`

	Profile *partner.ProfilePatch `json:"profile,omitempty"`
	ReadSeq int64                 `json:"readSeq,omitempty"`
}

// envelopeJSON is the part of a command that every version has: decoded alone only when
// the rest could not be.
type envelopeJSON struct {
	CommandID string `json:"commandId"`
	Type      string `json:"type"`
	Version   int    `json:"version"`
	Issuer    string `json:"issuer"`
	Pair      string `json:"pair"`
}

// EncodeCommand returns the record of a command, on the partition of its pair among
// partitions. AcceptedAt is cut to microseconds, as everywhere. traceparent may be empty.
// It refuses a command that DecodeCommand would not read.
func EncodeCommand(t Topics, partitions int, cmd partner.Command, traceparent string) (Record, error) {
	if err := checkCommand(cmd); err != nil {
		return Record{}, fmt.Errorf("encode command %s: %w", cmd.ID, err)
	}
	at := Instant(cmd.AcceptedAt)
	data := commandJSON{
		CommandID:     cmd.ID.String(),
		Type:          cmd.Type.String(),
		Version:       Version,
		Issuer:        cmd.Issuer.String(),
		Pair:          cmd.Pair.String(),
		AcceptedAt:    formatTime(at),
		Fingerprint:   hex.EncodeToString(cmd.Fingerprint[:]),
		Cause:         formatID(cmd.Cause),
		RequestID:     formatID(cmd.RequestID),
		PartnershipID: formatID(cmd.PartnershipID),
		Message:       cmd.Message,
		Reason:        cmd.Reason,
		Fresh:         cmd.Fresh,
		Quiet:         cmd.Quiet,
		More:          cmd.More,
		BreakupID:     formatID(cmd.BreakupID),
		Nickname:      cmd.Nickname,
		Address:       cmd.Address,
		Device:        cmd.Device,
		Profile:       cmd.Profile,
		ReadSeq:       cmd.ReadSeq,
	}
	value, err := json.Marshal(data)
	if err != nil {
		return Record{}, fmt.Errorf("encode command %s: %w", cmd.ID, err)
	}
	source := sourceIngest
	if cmd.FollowUp() {
		source = sourceProcessor
	}
	key := []byte(data.Pair)
	return Record{
		Topic:     t.Commands,
		Partition: PartitionOf(key, partitions),
		Time:      at,
		Key:       key,
		Value:     value,
		Headers: attributes{
			id: data.CommandID, kind: data.Type, source: source, time: data.AcceptedAt,
			pair: data.Pair, commandID: data.CommandID, traceparent: traceparent,
		}.headers(),
	}, nil
}

// DecodeCommand reads a record of the commands topic. Fields that this code does not know
// are ignored. errors.Is tells the two failures apart: ErrUnknown comes with a valid
// envelope, ErrMalformed with whatever could be read of it and may be nothing.
func DecodeCommand(rec Record) (partner.Command, Envelope, error) {
	var data commandJSON
	if err := unmarshal(rec.Value, &data); err != nil {
		// A newer version may have given a field another type: its envelope still counts.
		var head envelopeJSON
		if unmarshal(rec.Value, &head) != nil {
			return partner.Command{}, Envelope{}, fmt.Errorf("decode command: %w", err)
		}
		env, known, envErr := envelopeOf(rec, head)
		if envErr != nil || known {
			return partner.Command{}, env, fmt.Errorf("decode command: %w", err)
		}
		return partner.Command{}, env, unknown(env)
	}
	env, known, err := envelopeOf(rec, envelopeJSON{data.CommandID, data.Type, data.Version, data.Issuer, data.Pair})
	if err != nil {
		return partner.Command{}, env, fmt.Errorf("decode command: %w", err)
	}
	if !known {
		return partner.Command{}, env, unknown(env)
	}
	cmd, err := commandOf(env, data)
	if err != nil {
		return partner.Command{}, env, fmt.Errorf("decode command %s: %w", env.ID, err)
	}
	return cmd, env, nil
}

func unknown(env Envelope) error {
	return fmt.Errorf("decode command %s version %d: %w", env.ID, env.Version, ErrUnknown)
}

// envelopeOf reads the envelope and tells whether this code knows the type and version.
func envelopeOf(rec Record, head envelopeJSON) (env Envelope, known bool, err error) {
	if env.ID, err = parseID("commandId", head.CommandID); err != nil {
		return env, false, err
	}
	if env.Issuer, err = parseID("issuer", head.Issuer); err != nil {
		return env, false, err
	}
	if env.Pair, err = parsePair(head.Pair); err != nil {
		return env, false, err
	}
	if head.Type == "" {
		return env, false, malformed("type is missing")
	}
	if head.Version < 1 {
		return env, false, malformed("version is not positive")
	}
	env.Type, env.Version = head.Type, head.Version
	if err := checkRecord(rec, head.CommandID, head.Type, head.Pair); err != nil {
		return env, false, err
	}
	_, known = partner.ParseCommandType(head.Type)
	return env, known && head.Version <= Version, nil
}

func commandOf(env Envelope, data commandJSON) (partner.Command, error) {
	kind, _ := partner.ParseCommandType(env.Type)
	cmd := partner.Command{
		ID: env.ID, Type: kind, Issuer: env.Issuer, Pair: env.Pair,
		Message: data.Message, Reason: data.Reason, Fresh: data.Fresh, Quiet: data.Quiet, More: data.More,
		Nickname: data.Nickname, Address: data.Address, Device: data.Device, Profile: data.Profile,
		ReadSeq: data.ReadSeq,
	}
	var err error
	if cmd.AcceptedAt, err = parseTime("acceptedAt", data.AcceptedAt); err != nil {
		return cmd, err
	}
	if len(data.Fingerprint) != 2*len(cmd.Fingerprint) {
		return cmd, malformed("fingerprint is not 32 hexadecimal digits")
	}
	if _, err := hex.Decode(cmd.Fingerprint[:], []byte(data.Fingerprint)); err != nil {
		return cmd, malformed("fingerprint is not 32 hexadecimal digits")
	}
	if cmd.Cause, err = parseOptionalID("cause", data.Cause); err != nil {
		return cmd, err
	}
	if cmd.RequestID, err = parseOptionalID("requestId", data.RequestID); err != nil {
		return cmd, err
	}
	if cmd.PartnershipID, err = parseOptionalID("partnershipId", data.PartnershipID); err != nil {
		return cmd, err
	}
	if cmd.BreakupID, err = parseOptionalID("breakupId", data.BreakupID); err != nil {
		return cmd, err
	}
	if p := cmd.Profile; p != nil && p.Theme != nil && len(p.Theme.Entries) == 0 {
		p.Theme.Entries = nil // none has one form
	}
	return cmd, checkCommand(cmd)
}

// checkCommand holds a command against what its type needs, so that Decide never meets
// one that makes no sense. Whoever is in the wrong place on purpose, a send to oneself
// say, is Decide's to reject with a code.
func checkCommand(cmd partner.Command) error {
	if cmd.ID == uuid.Nil {
		return malformed("commandId is missing")
	}
	if cmd.Issuer == uuid.Nil || partner.PairOf(cmd.Pair.Low, cmd.Pair.High) != cmd.Pair {
		return malformed("issuer or pair is missing or not canonical")
	}
	if !cmd.Pair.Has(cmd.Issuer) {
		return malformed("issuer is not of the pair")
	}
	return checkFields(cmd)
}

func checkFields(cmd partner.Command) error {
	switch cmd.Type {
	case partner.Send, partner.Remove, partner.AskBreakup, partner.Block, partner.Unblock, partner.ClearNickname:
		return nil
	case partner.Accept, partner.Decline, partner.Cancel:
		return needs(cmd.RequestID != uuid.Nil, "requestId is missing")
	case partner.AcceptBreakup, partner.DeclineBreakup, partner.WithdrawBreakup:
		return needs(cmd.BreakupID != uuid.Nil, "breakupId is missing")
	case partner.Forfeit:
		return needs(cmd.PartnershipID != uuid.Nil, "partnershipId is missing")
	case partner.SetNickname:
		return needs(cmd.Nickname != "", "nickname is missing")
	case partner.UpdateProfile:
		return needs(cmd.Pair.Solo() && cmd.Profile != nil && cmd.Profile.PartnerCode == nil,
			"profile is missing or holds a partner code, or the pair is two users")
	case partner.ChangeCode:
		return needs(cmd.Pair.Solo() && cmd.Profile != nil && cmd.Profile.PartnerCode != nil &&
			*cmd.Profile == (partner.ProfilePatch{PartnerCode: cmd.Profile.PartnerCode}),
			"the partner code is missing or not alone, or the pair is two users")
	case partner.ReadInbox:
		return needs(cmd.Pair.Solo() && cmd.ReadSeq >= 0, "readSeq is negative, or the pair is two users")
	case partner.DeleteAccount:
		return needs(cmd.Pair.Solo(), "the pair is two users")
	case partner.Supersede:
		return needs(cmd.RequestID != uuid.Nil && cmd.FollowUp(), "requestId or cause is missing")
	case partner.ClosePair:
		return needs(cmd.FollowUp() && !cmd.Pair.Solo(), "cause is missing, or the pair is one user")
	case partner.Sweep, partner.EraseAccount:
		return needs(cmd.FollowUp() && cmd.Pair.Solo(), "cause is missing, or the pair is two users")
	default:
		return malformed("the type has no number")
	}
}

func needs(ok bool, fault string) error {
	if !ok {
		return malformed(fault)
	}
	return nil
}
