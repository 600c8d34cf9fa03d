package phone

import (
	"context"
	"strings"

	"github.com/bondmate/backend/realtime/realtimetest"
)

// Connect opens the phone's WebSocket. With after it asks for what came since then;
// without, for what comes from now on. The first frame is ready.
func (p *Phone) Connect(ctx context.Context, after *int64) (*realtimetest.Conn, error) {
	url := "ws" + strings.TrimPrefix(p.Server.URL, "http") + "/api/realtime"
	return realtimetest.Dial(ctx, url, realtimetest.Options{Token: p.AccessToken, After: after, Visible: true})
}
