package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// openJournal opens the file that this node's documents are added to as they are published; "" is none.
func openJournal(path string) (io.WriteCloser, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--journal: %w", err)
	}
	return f, nil
}

// write adds a line in the form of recordings, which e2e/sim judges. Journals of several nodes can be put
// one after the other.
func write(journal io.Writer, d reconcile.Document) error {
	type published struct {
		Writer string             `json:"writer"`
		Says   reconcile.Document `json:"says"`
	}
	line, err := json.Marshal(struct {
		At       time.Time `json:"at"`
		Document published `json:"document"`
	}{time.Now(), published{d.Node, d}})
	if err != nil {
		return err
	}
	_, err = journal.Write(append(line, '\n'))
	return err
}
