package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/sim"
)

// night tells whether the tests that take long are asked for: PLEACH_TESTS=nightly.
func night() bool { return os.Getenv("PLEACH_TESTS") == "nightly" }

// long is how long a test of the night takes, by PLEACH_LONG when that is set: "5m".
func long(t *testing.T, usual time.Duration) time.Duration {
	t.Helper()
	if !night() {
		t.Skip("runs with PLEACH_TESTS=nightly: see make test-nightly")
	}
	text := os.Getenv("PLEACH_LONG")
	if text == "" {
		return usual
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("PLEACH_LONG: %v", err)
	}
	return d
}

// TestNightWithoutGit: Git is away for ten minutes. What is committed meanwhile waits; a node that is lost is
// replaced all the same, and comes back; every node says since when it has heard nothing. When Git is back
// the commit is carried out, and the status branch tells of it.
func TestNightWithoutGit(t *testing.T) {
	away := long(t, 10*time.Minute)
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	f.verified()
	lost, rest := f.machines[2], f.machines[:2]

	f.git.Down(true)
	end := f.recorder.begin(sim.GitAway, "")
	began := time.Now()
	f.repo.Replace(appDir+"/web.yaml", image, nextImage)
	commit := f.repo.Commit("web at " + nextImage)
	if _, err := f.repo.Try("push", "--quiet", "origin", "HEAD:main"); err == nil {
		t.Error("a push reached a server that is down")
	}
	f.kill(lost)
	healed := f.settled(6, rest...)
	f.stays(before, healed, rest...)
	f.boot(lost)
	back := f.calm(6)
	f.stays(before, back, rest...)
	lab.Hold(t, away-time.Since(began), "nobody moves a pod or rolls out", func(ctx context.Context) error {
		return f.unmoved(ctx, back, f.machines...)
	})
	for _, m := range f.machines {
		st, err := m.api.Status(t.Context())
		f.must(err)
		if st.Remote.Err == "" || st.Remote.LastOK.After(began.Add(10*time.Second)) {
			t.Errorf("%s does not say that Git is away: %+v", m.Name, st.Remote)
		}
	}

	f.recorder.setQuiet(false)
	f.git.Down(false)
	end()
	f.repo.Push()
	f.waitHead(commit, f.machines...)
	f.rolled(6, nextImage, f.machines...)
	f.wait("the status branch tells of it", func(context.Context) error {
		text, err := f.repo.Try("show", f.tip()+":README.md")
		if err == nil && !strings.Contains(text, commit[:12]) {
			err = errors.New(text)
		}
		return err
	})
	f.verified()
	for _, m := range f.machines {
		f.truthful(m)
	}
}

// calm is settled for five seconds in a row: an agent that has just started shows what it has found on its
// disk, and gives it up, a moment later.
func (f *flock) calm(n int) map[string][]string {
	f.t.Helper()
	var last map[string][]string
	var since time.Time
	f.wait(fmt.Sprintf("%d pods run and stay", n), func(ctx context.Context) error {
		now, err := f.placed(ctx, n, f.machines...)
		if err != nil || !slices.Equal(all(now), all(last)) {
			last, since = now, time.Now()
		}
		if err == nil && time.Since(since) < 5*time.Second {
			err = fmt.Errorf("since %s", time.Since(since))
		}
		return err
	})
	return f.settled(n, f.machines...)
}

// TestNightStarved: for an hour every node has as many busy programs beside its agent as the machine has
// processors, so that each waits for its turn. Nothing else happens, so nobody moves a pod: there is no fault
// in the recording that could excuse a relocation, and the checker finds any.
func TestNightStarved(t *testing.T) {
	d := long(t, time.Hour)
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	for _, m := range f.machines {
		for i := range runtime.NumCPU() {
			p, err := m.Run(fmt.Sprint("busy-", i), "sh", "-c", "while :; do :; done")
			f.must(err)
			defer func() { f.must(p.Kill()) }()
		}
	}
	asked, missed := 0, 0
	for began := time.Now(); time.Since(began) < d; time.Sleep(2 * time.Second) {
		for _, m := range f.machines {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			pods, err := m.own(ctx)
			cancel()
			if asked++; err != nil {
				missed++ // it is starved, and asked again soon
				continue
			}
			var names []string
			for _, p := range pods {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			if want := slices.Sorted(slices.Values(before[m.Name])); !slices.Equal(names, want) {
				t.Fatalf("after %s %s runs %v, and ran %v", time.Since(began).Round(time.Second), m.Name, names, want)
			}
		}
	}
	t.Logf("%s with both processors full: the agents were asked %d times, and did not answer within 30 s %d times; %s",
		d, asked, missed, pressure())
	if missed > asked/10 {
		t.Errorf("agents did not answer %d of %d times: the test has hardly seen anything", missed, asked)
	}
	f.stays(before, f.settled(6, f.machines...), f.machines...)
	f.unrestarted()
}

// TestNightFrozen: a machine stands still for longer than the five minutes that a host which answers is given.
// Its pods are replaced; when it goes on it learns that, and 30 s later each slot runs once.
func TestNightFrozen(t *testing.T) {
	long(t, 0)
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	frozen, rest := f.machines[2], f.machines[:2]
	// To everybody else it is cut off, and to itself everybody else is.
	end := f.recorder.begin(sim.Partition, "", frozen.Name)
	f.must(frozen.Freeze(true))
	var after map[string][]string
	lab.Wait(t, 10*time.Minute, "the others replace its pods", func(ctx context.Context) (err error) {
		after, err = f.placed(ctx, 6, rest...)
		return err
	})
	f.stays(before, after, rest...)
	f.must(frozen.Freeze(false))
	end()
	f.within(30*time.Second, "since it goes on each slot runs once", 6)
}

// pressure is how much of the last minutes some process waited for a processor, as the kernel says it.
func pressure() string {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return "cpu pressure: " + line
}
