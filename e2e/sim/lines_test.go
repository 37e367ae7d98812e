package sim

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestRecordingOnDisk: what is read back is judged as what was written, with documents missing too.
func TestRecordingOnDisk(t *testing.T) {
	life := Generate(4, 3, 3*time.Minute)
	r, _ := Run(life)
	var file bytes.Buffer
	if err := r.Write(&file); err != nil {
		t.Fatal(err)
	}
	text := file.String()
	again, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != r.Digest() || again.End != r.End || len(again.History) != len(r.History) {
		t.Errorf("read back: %s until %s, %d commits; was %s until %s, %d commits", again.Digest(), again.End, len(again.History), r.Digest(), r.End, len(r.History))
	}
	if v := Check(again); v != nil {
		t.Errorf("a good recording: %s", v.Error())
	}

	// Every tenth document but the last ones did not reach the recorder.
	var kept []string
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if i%10 != 0 || !strings.Contains(line, `"document":`) || i > len(lines)-30 {
			kept = append(kept, line)
		}
	}
	again, err = Read(strings.NewReader(strings.Join(kept, "")))
	if err != nil {
		t.Fatal(err)
	}
	if v := Check(again); v != nil {
		t.Errorf("with documents missing: %s", v.Error())
	}

	again.Records[len(again.Records)-1].Document.Instances[0].Node = "n9"
	if v := Check(again); v == nil || v.Rule != "fixed by the claim" {
		t.Errorf("a lie in it: %v", v)
	}

	for _, bad := range []string{"", "{", `{"at":"2026-01-02T03:04:05Z","fault":{"kind":"restart"}}`} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
