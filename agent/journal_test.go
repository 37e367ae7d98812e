package agent

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// TestJournal: each document is a line, with the time and who signed it.
func TestJournal(t *testing.T) {
	var journal bytes.Buffer
	began := time.Now()
	for seq := range int64(2) {
		if err := write(&journal, reconcile.Document{Node: "n1", Boot: 3, Seq: seq + 1}); err != nil {
			t.Fatal(err)
		}
	}
	lines := bytes.Split(bytes.TrimSpace(journal.Bytes()), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), journal.Bytes())
	}
	for i, line := range lines {
		var entry struct {
			At       time.Time
			Document struct {
				Writer string
				Says   reconcile.Document
			}
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatal(err)
		}
		d := entry.Document
		if d.Writer != "n1" || d.Says.Boot != 3 || d.Says.Seq != int64(i+1) || entry.At.Before(began) {
			t.Errorf("line %d is %s", i, line)
		}
	}
}
