package fcm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// parseMessage returns the message of a send request as it came and its device token,
// and refuses what FCM would.
func parseMessage(body []byte) (json.RawMessage, string, error) {
	var req struct {
		Message json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return json.RawMessage("null"), "", fmt.Errorf("invalid JSON payload received: %w", err)
	}
	if len(req.Message) == 0 {
		return json.RawMessage("null"), "", errors.New("invalid value at 'message'")
	}
	var msg struct {
		Token        string            `json:"token"`
		Data         map[string]string `json:"data"`
		Notification json.RawMessage   `json:"notification"`
	}
	if err := json.Unmarshal(req.Message, &msg); err != nil {
		return req.Message, "", fmt.Errorf("invalid value at 'message': %w", err)
	}
	if msg.Token == "" {
		return req.Message, "", errors.New("the registration token is not a valid FCM registration token")
	}
	size := len(msg.Notification)
	for k, v := range msg.Data {
		if k == "from" || k == "message_type" || strings.HasPrefix(k, "google.") || strings.HasPrefix(k, "gcm.") {
			return req.Message, msg.Token, fmt.Errorf("invalid data payload key: %s", k)
		}
		size += len(k) + len(v)
	}
	if size > maxMessage {
		return req.Message, msg.Token, errors.New("message is too big")
	}
	return req.Message, msg.Token, nil
}
