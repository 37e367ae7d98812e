package shapes

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/placement"
)

// Case is a shape of Kubernetes' scheduler_perf: 5,000 nodes, pods that run, pods to place.
type Case struct {
	Name  string
	Floor float64 // pods/s that Kubernetes' CI asks of its scheduler at least
	Make  func() placement.Input
}

// perfFlock is scheduler_perf's: 5,000 nodes of 4 cores and 32 GiB in three zones, and pods of 100m and 500Mi.
func perfFlock(zones int) placement.Input {
	var in placement.Input
	for i := range 5000 {
		name := fmt.Sprintf("node-%05d", i)
		in.Nodes = append(in.Nodes, placement.Node{
			Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone", i%zones)},
			Allocatable: placement.Resources{MilliCPU: 4000, Memory: 32 << 30, EphemeralStorage: 100 << 30, Pods: 110},
		})
	}
	return in
}

func perfPods(in *placement.Input, name string, n int, c *placement.Constraints, cpu int64, priority int32) {
	for i := range n {
		in.Slots = append(in.Slots, placement.Slot{
			Key: fmt.Sprintf("%s/%d", name, i), Constraints: c, Wave: 1, Priority: priority,
			Requests: placement.Resources{MilliCPU: cpu, Memory: 500 << 20, Pods: 1},
		})
	}
}

func perfTerm(key, color string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}}}}
}

// perfRun settles the first pods, so that only the measured ones are open.
func perfRun(in placement.Input) placement.Input {
	Settle(&in, placement.Plan(in))
	return in
}

// Cases are the shapes of scheduler_perf, with the floors of Kubernetes' CI at 5,000 nodes.
var Cases = []Case{
	{"Basic", 680, func() placement.Input {
		in := perfFlock(3)
		perfPods(&in, "init", 1000, &placement.Constraints{}, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 10000, &placement.Constraints{}, 100, 0)
		return in
	}},
	{"PodAffinity", 35, func() placement.Input {
		in := perfFlock(1)
		c := &placement.Constraints{Labels: map[string]string{"color": "blue"}, Affinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: perfTerm(corev1.LabelTopologyZone, "blue")}}
		perfPods(&in, "init", 5000, c, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"PodAntiAffinity", 60, func() placement.Input {
		in := perfFlock(3)
		c := &placement.Constraints{Labels: map[string]string{"color": "green"}, AntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: perfTerm(corev1.LabelHostname, "green")}}
		perfPods(&in, "init", 1000, c, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 2000, c, 100, 0)
		return in
	}},
	{"PreferredPodAffinity", 90, func() placement.Input {
		in := perfFlock(3)
		c := &placement.Constraints{Labels: map[string]string{"color": "red"}, Affinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: perfTerm(corev1.LabelHostname, "red")[0]}}}}
		perfPods(&in, "init", 5000, c, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"TopologySpreading", 460, func() placement.Input {
		in := perfFlock(3)
		c := &placement.Constraints{Labels: map[string]string{"color": "blue"}, Spread: []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
		}}}
		perfPods(&in, "init", 5000, &placement.Constraints{}, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"PreferredTopologySpreading", 340, func() placement.Input {
		in := perfFlock(3)
		c := &placement.Constraints{Labels: map[string]string{"color": "blue"}, Spread: []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
		}}}
		perfPods(&in, "init", 5000, &placement.Constraints{}, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"Preemption", 570, func() placement.Input {
		in := perfFlock(3)
		perfPods(&in, "init", 20000, &placement.Constraints{}, 900, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, &placement.Constraints{}, 3000, 10)
		return in
	}},
	{"UnschedulableChurn", 590, func() placement.Input {
		in := perfFlock(3)
		perfPods(&in, "churn", 5000, &placement.Constraints{}, 9000, 10)
		perfPods(&in, "pod", 10000, &placement.Constraints{}, 100, 0)
		return in
	}},
}
