package membership

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// logger passes Serf's lines on. They tell of every packet that could not be delivered, which is no
// trouble of its own: all of them are for debugging.
func logger(to *slog.Logger) *log.Logger { return log.New(lines{to}, "", 0) }

type lines struct{ to *slog.Logger }

func (l lines) Write(b []byte) (int, error) {
	if l.to.Enabled(context.Background(), slog.LevelDebug) {
		l.to.Debug("serf", "line", string(bytes.TrimSpace(b)))
	}
	return len(b), nil
}
