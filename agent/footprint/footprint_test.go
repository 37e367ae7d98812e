package footprint

import (
	"os"
	"strings"
	"testing"
)

func TestMapping(t *testing.T) {
	for _, tt := range []struct {
		line, mode, path string
		from, to         uintptr
		ok               bool
	}{
		{"00401000-02c92000 r-xp 00001000 fe:00 1234                       /opt/a b/pleach (deleted)\n", "r-xp", "/opt/a b/pleach (deleted)", 0x401000, 0x2c92000, true},
		{"7ffd4c1f0000-7ffd4c211000 rw-p 00000000 00:00 0                          [stack]\n", "rw-p", "[stack]", 0x7ffd4c1f0000, 0x7ffd4c211000, true},
		{"c000000000-c000800000 rw-p 00000000 00:00 0 \n", "rw-p", "", 0xc000000000, 0xc000800000, false},
		{"", "", "", 0, 0, false},
	} {
		from, to, mode, path, ok := mapping(tt.line)
		if ok != tt.ok || path != tt.path || mode != tt.mode || from != tt.from || to != tt.to {
			t.Errorf("%q: got %x-%x %q %q %t", tt.line, from, to, mode, path, ok)
		}
	}
}

// counter is written before and read after: variables must survive.
var counter = []string{"written", "when", "initialized"}

func TestTrim(t *testing.T) {
	counter = append(counter, "and later")
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(counter, " "); got != "written when initialized and later" {
		t.Errorf("a variable became %q", got)
	}
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		t.Error(err)
	}
}
