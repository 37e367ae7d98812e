package lab

import (
	"fmt"
	"strconv"
	"testing"
)

// A lab's name tells its process, whatever the digits.
func TestOwnerReadsEveryName(t *testing.T) {
	for pid := 1; pid < 1<<16; pid++ {
		name := fmt.Sprintf("%s%sx1", prefix, strconv.FormatInt(int64(pid), base))
		if got, ok := owner(name); !ok || got != pid {
			t.Fatalf("%s is of process %d, want %d", name, got, pid)
		}
	}
}
