package sim

import (
	"fmt"
	"time"
)

// perWorkload is how many slots each workload of a large flock has.
const perWorkload = 20

// Large returns the life of a large flock to which little happens: Deployments of 20 replicas with so many slots
// in all; in each quarter of an hour some are rolled out, a node is lost and comes back, an agent starts again,
// and pods fail; once a tenth of the nodes is cut off from the others for a minute. Generate's lives are too full of
// faults to tell what a large flock costs.
func Large(seed uint64, nodes, slots int, length time.Duration) Life {
	r := dice(seed, "large")
	life := Life{Seed: seed, Nodes: nodes, Calm: length}
	var first []Change
	for i := range max(slots/perWorkload, 1) {
		first = append(first, Change{To: Workload{
			Name: fmt.Sprintf("web%04d", i), App: apps[i%len(apps)], Kind: "Deployment", Replicas: min(perWorkload, slots),
			Surge: 2, Unavailable: 2, Image: 1, Brought: 1,
		}})
	}
	add := func(at time.Duration, e Event) {
		e.At = at
		life.Events = append(life.Events, e)
	}
	roll := func(at time.Duration, image int) {
		var changes []Change
		for range max(len(first)/100, 1) {
			w := first[r.IntN(len(first))].To
			w.Image = image
			changes = append(changes, Change{To: w})
		}
		add(at, Event{Kind: Push, Node: -1, Push: changes})
	}
	add(time.Second, Event{Kind: Push, Node: -1, Push: first})
	for from, image := 2*time.Minute, 2; from+12*time.Minute <= length || image == 2; from, image = from+15*time.Minute, image+1 {
		quarter := min(12*time.Minute, length-from) / 12
		roll(from, image)
		add(from+2*quarter, Event{Kind: PowerOff, Node: r.IntN(nodes), For: 3 * quarter})
		add(from+7*quarter, Event{Kind: Restart, Node: r.IntN(nodes), For: 5 * time.Second})
		add(from+8*quarter, Event{Kind: PodFails, Node: r.IntN(nodes)})
		if image == 3 {
			add(from+9*quarter, Event{Kind: Partition, Node: -1, Group: r.Perm(nodes)[:max(nodes/10, 1)], For: quarter})
		}
	}
	roll(length, 99)
	return life
}
