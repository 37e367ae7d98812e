// Command cmd lives the lives of simulated flocks, one seed after the other, and stops at the first that
// breaks a rule: it shrinks that life, tells its story, and exits with 1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/pleachdev/pleach/e2e/sim"
)

func main() {
	seed := flag.Uint64("seed", 1, "the first seed")
	seeds := flag.Int("seeds", 100, "how many seeds, for every size of flock")
	sizes := flag.String("nodes", "1,3,5,8", "sizes of flocks")
	hours := flag.Float64("hours", 0.1, "simulated hours of faults in every life")
	story := flag.Bool("story", false, "tell the story of every life")
	keep := flag.Bool("keep-going", false, "count the lives that break a rule, by rule, and tell nothing")
	check := flag.String("check", "", "judge a recording of real nodes, a file of JSON lines, instead")
	record := flag.String("record", "", "write the recording of the last life to a file, as -check reads it")
	workers := flag.Int("parallel", runtime.GOMAXPROCS(0), "lives at a time")
	profile := flag.String("cpuprofile", "", "file to write a CPU profile to")
	flag.Parse()
	debug.SetGCPercent(1600) // a life leaves much behind and holds little
	var err error
	if *check != "" {
		err = judge(*check)
	} else {
		err = profiled(*profile, hunt{*seed, *seeds, time.Duration(*hours * float64(time.Hour)), *workers, *story, *keep, *record}.run, *sizes)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func profiled(profile string, run func(string) error, sizes string) error {
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return run(sizes)
}

// hunt is a search for lives that break a rule.
type hunt struct {
	seed    uint64
	seeds   int
	length  time.Duration
	workers int
	story   bool
	keep    bool
	record  string
}

func (h hunt) run(sizes string) error {
	failed := 0
	for size := range strings.SplitSeq(sizes, ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil || nodes < 1 {
			return fmt.Errorf("-nodes %q: want numbers with commas between them", sizes)
		}
		var t tally
		began := time.Now()
		for o := range h.lives(nodes) {
			v := o.violation
			t.add(o)
			if h.record != "" {
				if err := save(h.record, o.recording); err != nil {
					return err
				}
			}
			switch {
			case v == nil && h.story:
				sim.Tell(os.Stdout, o.life, o.recording, o.lines, nil)
			case v != nil && h.keep:
				failed++
				fmt.Printf("seed %d, %d nodes: %s\n", o.life.Seed, nodes, v.Error())
			case v != nil:
				fmt.Printf("seed %d, %d nodes: %s\nlooking for a smaller life\n", o.life.Seed, nodes, v.Error())
				less := sim.Shrink(o.life, v.Rule, 400)
				r, lines := sim.Run(less)
				sim.Tell(os.Stdout, less, r, lines, sim.Check(r))
				return fmt.Errorf("seed %d with %d nodes breaks a rule", o.life.Seed, nodes)
			}
		}
		took := time.Since(began)
		fmt.Printf("%2d nodes: %s, in %s, %.2f lives a second\n", nodes, t, took.Round(10*time.Millisecond), float64(t.lives)/took.Seconds())
	}
	if failed > 0 {
		return fmt.Errorf("%d lives break a rule", failed)
	}
	return nil
}

// outcome is what became of a life.
type outcome struct {
	life        sim.Life
	recording   *sim.Recording
	lines       []sim.Line // when they are told
	violation   *sim.Violation
	all, second int // starts
}

// lives lives one seed after the other, some at a time, in the order of seeds.
func (h hunt) lives(nodes int) iter.Seq[outcome] {
	return func(yield func(outcome) bool) {
		workers := max(h.workers, 1)
		turns := make(chan struct{}, workers)
		var under []chan outcome
		next := h.seed
		for range h.seeds {
			for ; len(under) < 4*workers && next < h.seed+uint64(h.seeds); next++ {
				c, seed := make(chan outcome, 1), next
				under = append(under, c)
				go func() {
					turns <- struct{}{}
					c <- h.live(seed, nodes)
					<-turns
				}()
			}
			o := <-under[0]
			under = under[1:]
			if !yield(o) {
				return
			}
		}
	}
}

func (h hunt) live(seed uint64, nodes int) outcome {
	o := outcome{life: sim.Generate(seed, nodes, h.length)}
	o.recording, o.lines = sim.Run(o.life)
	o.violation = sim.Check(o.recording)
	o.all, o.second = o.recording.Starts()
	if !h.story {
		o.lines = nil
	}
	return o
}

// judge reads a recording and says what rule it breaks.
func judge(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := sim.Read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if v := sim.Check(r); v != nil {
		sim.Tell(os.Stdout, sim.Life{Nodes: len(r.Names), Calm: r.End}, r, r.Story(), v)
		return fmt.Errorf("%s breaks a rule", file)
	}
	all, second := r.Starts()
	fmt.Printf("%s: %d documents of %d nodes, %d commits, %d starts, %d of them second without a partition: no rule is broken\n",
		file, len(r.Records), len(r.Names), len(r.History), all, second)
	return nil
}

// save writes a recording.
func save(file string, r *sim.Recording) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(r.Write(f), f.Close())
}

// tally sums up lives.
type tally struct {
	lives, documents, starts, second int
	lived, slowest                   time.Duration
	slowestSeed                      uint64
}

func (t *tally) add(o outcome) {
	r := o.recording
	t.lives++
	t.documents += len(r.Records)
	t.starts += o.all
	t.second += o.second
	t.lived += r.End
	if took := r.Whole - r.Calm; r.Whole > 0 && took > t.slowest {
		t.slowest, t.slowestSeed = took, o.life.Seed
	}
}

func (t tally) String() string {
	return fmt.Sprintf("%d lives, %.1f simulated hours, %d documents, %d starts, %d of them second without a partition; whole at most %s after the last fault (seed %d)",
		t.lives, t.lived.Hours(), t.documents, t.starts, t.second, t.slowest.Round(time.Second), t.slowestSeed)
}
