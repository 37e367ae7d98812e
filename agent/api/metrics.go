package api

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/state"
)

// Metrics counts what the agent does. What can be read from the state is read when it is asked for.
type Metrics struct {
	syncs    *prometheus.HistogramVec
	passes   *prometheus.HistogramVec
	starts   prometheus.Histogram
	refusals prometheus.Counter
}

// NewMetrics registers all metrics of the agent, with those of the process and the Go runtime.
func NewMetrics(registry prometheus.Registerer, store *state.Store, version string) (*Metrics, error) {
	m := &Metrics{
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pleach_sync_duration_seconds", Help: "Time to fetch the branch and verify what is new, by result.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"result"}),
		passes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pleach_reconcile_duration_seconds", Help: "Time of one pass from snapshot to actions, by result.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
		}, []string{"result"}),
		starts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pleach_pod_start_duration_seconds", Help: "Time from the moment a commit was fetched to each pod that it brought being ready.",
			Buckets: []float64{.25, .5, .75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600},
		}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pleach_commits_refused_total", Help: "Commits that were refused, wholly or for an app.",
		}),
	}
	for _, result := range []string{success, failure} { // a rate of zero is not a gap
		m.syncs.WithLabelValues(result)
		m.passes.WithLabelValues(result)
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pleach_build_info", Help: "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	for _, c := range []prometheus.Collector{
		m.syncs, m.passes, m.starts, m.refusals, build,
		stateCollector{store},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Values of the label "result".
const (
	success = "success"
	failure = "error"
)

func result(err error) string {
	if err != nil {
		return failure
	}
	return success
}

// Synced counts one look at the remote.
func (m *Metrics) Synced(took time.Duration, err error) {
	m.syncs.WithLabelValues(result(err)).Observe(took.Seconds())
}

// Reconciled counts one pass.
func (m *Metrics) Reconciled(took time.Duration, err error) {
	m.passes.WithLabelValues(result(err)).Observe(took.Seconds())
}

// PodReady counts a pod that became ready for the first time, by the time since its commit was fetched.
func (m *Metrics) PodReady(took time.Duration) { m.starts.Observe(took.Seconds()) }

// Refused counts refusals that were not there before.
func (m *Metrics) Refused(n int) { m.refusals.Add(float64(n)) }

// stateCollector reads gauges from the state.
type stateCollector struct{ store *state.Store }

var (
	remoteUp = prometheus.NewDesc("pleach_remote_up",
		"1 when the last look at the remote went well and the branch raised no alarm, else 0.", nil, nil)
	remoteLastSuccess = prometheus.NewDesc("pleach_remote_last_success_timestamp_seconds",
		"When the remote last answered.", nil, nil)
	acceptedTime = prometheus.NewDesc("pleach_accepted_commit_timestamp_seconds",
		"Date of the commit that an app runs; the app pleach.dev is the cluster's own files.", []string{"app"}, nil)
	standingRefusals = prometheus.NewDesc("pleach_refusals",
		"Refusals that stand against the head of the branch.", nil, nil)
	podsByPhase = prometheus.NewDesc("pleach_pods",
		"Pods of this node by phase.", []string{"phase"}, nil)
	restarts = prometheus.NewDesc("pleach_container_restarts_total",
		"Restarts of a container since its pod was made.", []string{"namespace", "pod", "container"}, nil)
	workloadReplicas = prometheus.NewDesc("pleach_workload_replicas",
		"Replicas of a workload by state.", []string{"kind", "namespace", "name", "state"}, nil)
	statusPushes = prometheus.NewDesc("pleach_status_pushes_total",
		"Pushes to the status branch since the agent started, by result.", []string{"result"}, nil)
	statusPending = prometheus.NewDesc("pleach_status_waiting_since_timestamp_seconds",
		"Time of the oldest change that is not on the status branch yet; 0 when there is none.", nil, nil)
)

func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{remoteUp, remoteLastSuccess, acceptedTime, standingRefusals, podsByPhase, restarts, workloadReplicas, statusPushes, statusPending} {
		ch <- d
	}
}

var phases = []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown}

func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	snap := c.store.Snapshot()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	remote := snap.Remote()
	up := 0.0
	if remote.Err == "" && remote.Alarm == "" && !remote.LastOK.IsZero() {
		up = 1
	}
	gauge(remoteUp, up)
	gauge(remoteLastSuccess, seconds(remote.LastOK))
	status := snap.StatusPush()
	gauge(statusPending, seconds(status.Waiting))
	for result, n := range map[string]int64{success: status.Pushes, failure: status.Failed} {
		ch <- prometheus.MustNewConstMetric(statusPushes, prometheus.CounterValue, float64(n), result)
	}
	if a := snap.Accepted(); a != nil {
		gauge(standingRefusals, float64(len(a.Refusals)))
		for _, u := range (view{Snapshot: snap}).status().Units {
			gauge(acceptedTime, seconds(u.Commit.Time), u.Name)
		}
	}
	count := map[corev1.PodPhase]int{}
	for _, p := range snap.Pods() {
		count[p.Status.Phase]++
		for _, cs := range p.Status.ContainerStatuses {
			ch <- prometheus.MustNewConstMetric(restarts, prometheus.CounterValue, float64(cs.RestartCount), p.Namespace, p.Name, cs.Name)
		}
	}
	for _, phase := range phases {
		gauge(podsByPhase, float64(count[phase]), string(phase))
	}
	for _, w := range snap.Workloads() {
		for _, n := range []struct {
			state string
			count int32
		}{{"desired", w.Desired}, {"current", w.Current}, {"updated", w.Updated}, {"ready", w.Ready}, {"available", w.Available}} {
			gauge(workloadReplicas, float64(n.count), w.Kind, w.Namespace, w.Name, n.state)
		}
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
