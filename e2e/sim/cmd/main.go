// Command cmd lives the lives of simulated flocks, one seed after the other, and stops at the first that
// breaks a rule: it shrinks that life, tells its story, and exits with 1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
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
	profile := flag.String("cpuprofile", "", "file to write a CPU profile to")
	flag.Parse()
	debug.SetGCPercent(400) // a life leaves much behind and holds little
	var err error
	if *check != "" {
		err = judge(*check)
	} else {
		err = run(*seed, *seeds, *sizes, *hours, *story, *keep, *profile, *record)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(seed uint64, seeds int, sizes string, hours float64, story, keep bool, profile, record string) error {
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
	length := time.Duration(hours * float64(time.Hour))
	failed := 0
	for size := range strings.SplitSeq(sizes, ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil || nodes < 1 {
			return fmt.Errorf("-nodes %q: want numbers with commas between them", sizes)
		}
		var t tally
		began := time.Now()
		for s := seed; s < seed+uint64(seeds); s++ {
			life := sim.Generate(s, nodes, length)
			r, lines := sim.Run(life)
			v := sim.Check(r)
			t.add(r)
			if record != "" {
				if err := save(record, r); err != nil {
					return err
				}
			}
			switch {
			case v == nil && story:
				sim.Tell(os.Stdout, life, r, lines, nil)
			case v != nil && keep:
				failed++
				fmt.Printf("seed %d, %d nodes: %s\n", s, nodes, v.Error())
			case v != nil:
				fmt.Printf("seed %d, %d nodes: %s\nlooking for a smaller life\n", s, nodes, v.Error())
				life = sim.Shrink(life, v.Rule, 400)
				r, lines = sim.Run(life)
				sim.Tell(os.Stdout, life, r, lines, sim.Check(r))
				return fmt.Errorf("seed %d with %d nodes breaks a rule", s, nodes)
			}
		}
		fmt.Printf("%2d nodes: %s, in %s\n", nodes, t, time.Since(began).Round(10*time.Millisecond))
	}
	if failed > 0 {
		return fmt.Errorf("%d lives break a rule", failed)
	}
	return nil
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
		sim.Tell(os.Stdout, sim.Life{Nodes: len(r.Names), Calm: r.End}, r, nil, v)
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
}

func (t *tally) add(r *sim.Recording) {
	all, second := r.Starts()
	t.lives++
	t.documents += len(r.Records)
	t.starts += all
	t.second += second
	t.lived += r.End
	if r.Whole > 0 {
		t.slowest = max(t.slowest, r.Whole-r.Calm)
	}
}

func (t tally) String() string {
	return fmt.Sprintf("%d lives, %.1f simulated hours, %d documents, %d starts, %d of them second without a partition; whole at most %s after the last fault",
		t.lives, t.lived.Hours(), t.documents, t.starts, t.second, t.slowest.Round(time.Second))
}
