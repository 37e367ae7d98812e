package reconcile_test

import (
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/sim"
	"github.com/pleachdev/pleach/reconcile"
)

func pushes(web sim.Workload, times ...time.Duration) (out []sim.Event) {
	for _, at := range times {
		web.Image++
		out = append(out, sim.Event{At: at, Kind: sim.Push, Node: -1, Push: []sim.Change{{To: web}}})
	}
	return out
}

// hurried is a life in which one commit follows the other before the rollout of the first is over.
func hurried(seed uint64) sim.Life {
	web := sim.Workload{Name: "web", App: "shop", Kind: "Deployment", Replicas: 6, Surge: int(seed/2) % 3, Unavailable: 1, MinReady: 2 * time.Second}
	var times []time.Duration
	for i := range 6 {
		times = append(times, time.Second+time.Duration(i)*(8+time.Duration(seed%5))*time.Second)
	}
	life := sim.Life{Seed: seed, Nodes: 3, Calm: time.Minute}
	during := func(e sim.Event) {
		e.At, e.For = 3*time.Second, 57*time.Second
		life.Events = append(life.Events, e)
	}
	if seed%2 == 0 {
		during(sim.Event{Kind: sim.SlowPods, Node: int(seed) % 3})
	}
	if seed%3 == 0 {
		during(sim.Event{Kind: sim.GitSlow, Node: int(seed) % 3})
	}
	switch seed % 5 {
	case 0, 1:
		during(sim.Event{Kind: sim.Loss, Node: -1, Share: 0.4})
	case 2, 3:
		during(sim.Event{Kind: sim.Cut, Node: 0, Peer: 1})
	}
	life.Events = append(life.Events, pushes(web, append(times, life.Calm)...)...)
	return life
}

// torn is a life in which three commits follow each other while calls between some nodes are not answered.
func torn(seed uint64) sim.Life {
	const at = time.Second
	web := sim.Workload{Name: "web", App: "shop", Kind: "Deployment", Replicas: 6, Surge: 1, Unavailable: int(seed) % 2, MinReady: time.Second}
	life := sim.Life{Seed: seed, Nodes: 3, Calm: time.Minute, Events: []sim.Event{
		{At: 10 * at, Kind: sim.Cut, Node: 0, Peer: 1, For: 45 * at},
		{At: 10 * at, Kind: sim.Loss, Node: -1, Share: 0.3, For: 45 * at},
	}}
	if seed%3 > 0 {
		life.Events = append(life.Events, sim.Event{At: 10 * at, Kind: sim.Cut, Node: 0, Peer: 2, For: 45 * at})
	}
	next := time.Duration(seed%8) * at
	life.Events = append(life.Events, pushes(web, at, 12*at, 15*at+next, 25*at+next, life.Calm)...)
	return life
}

func drawn(seed uint64) sim.Life { return sim.Generate(seed, 5, 6*time.Minute) }

// TestLivesNeedTheRules: simulated flocks break their bounds when a rule is left out, and only then. The other
// rules are shown to be needed by TestEveryRolloutRuleIsNeeded (inOrder), TestEveryRuleOfDuplicatesIsNeeded
// (evidence, word), TestTheGateIsNeeded (heard, newest), ask_test.go (once, young, epoch), and
// TestFlockLostSlotKeepsItsRevisionWhileARolloutIsStuck (previous).
func TestLivesNeedTheRules(t *testing.T) {
	if testing.Short() {
		t.Skip("lives take seconds")
	}
	for _, x := range []struct {
		rule        string
		lives       func(seed uint64) sim.Life
		from, seeds uint64 // as many at most
	}{
		{"promises", hurried, 10, 60},
		{"withinUnavailable", hurried, 1, 60},
		{"withinSurge", torn, 140, 200},
		{"token", drawn, 15, 40},
	} {
		t.Run(x.rule, func(t *testing.T) {
			for seed := range x.seeds {
				life := x.lives(x.from + seed)
				restore := reconcile.LeaveOut(x.rule)
				r, _ := sim.RunBent(life, reconcile.Bend(x.rule))
				restore()
				v := sim.Check(r)
				if v == nil {
					continue
				}
				t.Logf("seed %d: %s", x.from+seed, v.Error())
				if r, _ := sim.Run(life); sim.Check(r) != nil {
					t.Errorf("seed %d with the rule: %s", x.from+seed, sim.Check(r).Error())
				}
				return
			}
			t.Errorf("%d lives break nothing", x.seeds)
		})
	}
}
