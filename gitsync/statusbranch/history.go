package statusbranch

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// DefaultMaxCommits and DefaultMaxAge bound the history of the branch: the commit after that begins a
// new one. It is signed like all others, and what it replaces is the remote's to throw away.
const (
	DefaultMaxCommits = 5000
	DefaultMaxAge     = 30 * 24 * time.Hour
)

const (
	commitsTrailer = "Pleach-Commits"
	sinceTrailer   = "Pleach-Since"
)

// history is what a commit says of the history that it ends, so that nobody has to fetch that to know
// how long it is.
type history struct {
	author  string
	commits int       // this one included; 0 when it does not say
	since   time.Time // of the first
}

func historyOf(c *gitstore.Commit) history {
	h := history{author: c.Author.Name}
	for line := range strings.Lines(c.Message) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case commitsTrailer:
			h.commits, _ = strconv.Atoi(value) // 0 when it is none
		case sinceTrailer:
			h.since, _ = time.Parse(time.RFC3339, value) // zero when it is none
		}
	}
	return h
}

// isLong reports whether the history has come to its bounds. One that does not say how long it is begins
// to be counted.
func (h history) isLong(cfg Config, now time.Time) bool {
	return h.commits >= cmp.Or(cfg.MaxCommits, DefaultMaxCommits) ||
		!h.since.IsZero() && now.Sub(h.since) >= cmp.Or(cfg.MaxAge, DefaultMaxAge)
}

// next is the history with one more commit.
func (h history) next(author string, now time.Time) history {
	h.author, h.commits = author, max(h.commits, 0)+1
	if h.since.IsZero() {
		h.since = now
	}
	return h
}

func (h history) trailers() string {
	return fmt.Sprintf("\n%s: %d\n%s: %s\n", commitsTrailer, h.commits, sinceTrailer, h.since.UTC().Format(time.RFC3339))
}
