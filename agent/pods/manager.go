// Package pods runs pods on this node through a CRI runtime, and reports them as the kubelet does.
//
// [Manager.Start] and [Manager.Stop] write down what is wanted; a worker per pod makes it so and
// keeps it so. What runs is known from the runtime alone: containers are found by their labels, so a
// manager that starts again, after any kind of end, adopts what it finds and starts nothing twice.
// What does not run any more, as after the machine was started anew, waits for [Manager.Resume].
// One pod's trouble stays with its worker.
package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/pleachdev/pleach/agent/cgroups"
	"github.com/pleachdev/pleach/agent/images"
	"github.com/pleachdev/pleach/agent/volumes"
	"github.com/pleachdev/pleach/agent/wake"
)

// Labels of sandboxes and containers. The first four are the kubelet's, so that crictl shows pods
// as usual; the last says whose they are.
const (
	LabelPodName   = "io.kubernetes.pod.name"
	LabelNamespace = "io.kubernetes.pod.namespace"
	LabelUID       = "io.kubernetes.pod.uid"
	LabelContainer = "io.kubernetes.container.name"
	LabelNode      = "pleach.dev/node"
)

// DefaultLogDir is where node-level log collectors look for container logs.
const DefaultLogDir = "/var/log/pods"

// Lookup finds the objects that pods refer to. ConfigMap and Secret return nil for an object that
// does not exist; Node may return nil too. Results are not changed by the manager.
type Lookup interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
	Node() *corev1.Node
}

// Config says what a Manager works with.
type Config struct {
	Dir      string // the agent's directory; pods live in <Dir>/pods
	LogDir   string // DefaultLogDir when empty
	Runtime  cri.RuntimeService
	Images   cri.ImageManagerService
	Lookup   Lookup
	NodeName string
	NodeIPs  []netip.Addr // the first is status.hostIP
	Capacity corev1.ResourceList
	// CgroupRoot is the control group below which pods live, such as "/pleach". Empty leaves the
	// placing to the runtime and sets no limit of whole pods.
	CgroupRoot string
	// Recorder takes events of a pod; eventType is Normal or Warning. May be nil. It must not block.
	Recorder func(pod *corev1.Pod, eventType, reason, message string)
	Log      *slog.Logger // may be nil

	ClusterDNS    []netip.Addr // for dnsPolicy ClusterFirst; the node's own resolv.conf when empty
	ClusterDomain string       // "cluster.local" when empty
	ResolvConf    string       // "/etc/resolv.conf" when empty

	ParallelPulls int            // of images; 4 when 0
	Mounts        volumes.Mounts // volumes.Kernel when nil
	// PinnedImages are never removed to free the disk; the pause image belongs here.
	PinnedImages []string
}

// relist is how often what runs is listed afresh, in case an event was lost.
const relist = 30 * time.Second

// Manager runs the pods of one node.
type Manager struct {
	Config
	store   store
	puller  *images.Puller
	changed chan struct{}
	added   chan struct{} // buffered by one: workers wait to be started

	loadOnce  sync.Once
	loadErr   error
	leftovers []types.UID
	unlooked  atomic.Int64  // loaded workers that have not looked at the runtime yet
	looked    chan struct{} // closed when there are none

	mu      sync.Mutex
	groups  *cgroups.Groups // nil without CgroupRoot
	workers map[types.UID]*worker
}

// New returns a Manager that does nothing yet.
func New(config Config) *Manager {
	config.LogDir = cmp.Or(config.LogDir, DefaultLogDir)
	config.ClusterDomain = cmp.Or(config.ClusterDomain, "cluster.local")
	config.ResolvConf = cmp.Or(config.ResolvConf, "/etc/resolv.conf")
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Recorder == nil {
		config.Recorder = func(*corev1.Pod, string, string, string) {}
	}
	if config.Mounts == nil {
		config.Mounts = volumes.Kernel{}
	}
	return &Manager{
		Config:  config,
		store:   store{dir: filepath.Join(config.Dir, "pods")},
		puller:  images.New(config.Images, config.ParallelPulls),
		changed: make(chan struct{}, 1),
		added:   make(chan struct{}, 1),
		looked:  make(chan struct{}),
		workers: map[types.UID]*worker{},
	}
}

// load makes a worker for every record on disk, once. A record that cannot be read is reported and
// left alone: what runs for it goes on running.
func (m *Manager) load() error {
	m.loadOnce.Do(func() {
		records, states, leftovers, err := m.store.load()
		m.loadErr, m.leftovers = err, leftovers
		m.mu.Lock()
		defer m.mu.Unlock()
		m.unlooked.Store(int64(len(records)))
		for uid, r := range records {
			w := newWorker(m, r, states[uid])
			w.loaded = true
			w.held.Store(r.Stop == nil && !w.state.Final)
			m.workers[uid] = w
		}
		if len(records) == 0 {
			close(m.looked)
		}
	})
	return m.loadErr
}

// Run adopts what runs and works until ctx ends. Containers go on running then, so that an agent
// can be replaced under them; the next Run takes them over.
func (m *Manager) Run(ctx context.Context) error {
	// The CRI client logs every error that it returns; here they are handled, and reported once.
	ctx = klog.NewContext(ctx, klog.Logger{})
	if err := m.load(); err != nil {
		m.Log.Error("some pod records cannot be read; their pods are left as they are", "err", err)
	}
	if m.CgroupRoot != "" {
		groups, err := cgroups.New(m.CgroupRoot)
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.groups = groups
		m.mu.Unlock()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.watch(ctx) })
	wg.Go(func() { m.rotateLogs(ctx) })
	wg.Go(func() { m.collectImages(ctx) })
	wg.Go(func() { m.removeStrangers(ctx) })
	started, weights := map[*worker]bool{}, map[corev1.PodQOSClass]int64{}
	for {
		m.weighClasses(weights)
		m.mu.Lock()
		for _, w := range m.workers {
			if !started[w] {
				started[w] = true
				wg.Go(func() { w.run(ctx) })
			}
		}
		for w := range started {
			if m.workers[w.uid] != w {
				delete(started, w)
			}
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-m.added:
		}
	}
}

// ErrStopping says that a pod with this UID is being stopped: it can be started once it has gone.
var ErrStopping = errors.New("the pod is being stopped")

// Start makes a pod of this node run. When it returns nil, that is on disk. A pod with a UID that
// is known already is left as it is: a changed spec is a new pod. The pod needs name, namespace and
// UID, and Kubernetes' defaults. The error is ErrStopping for a pod that [Manager.Stop] was called
// for and that has not gone yet.
func (m *Manager) Start(pod *corev1.Pod) error {
	if pod.UID == "" || pod.Name == "" || pod.Namespace == "" || strings.ContainsAny(string(pod.UID), "/.") {
		return fmt.Errorf("start pod %s/%s: want name, namespace and a UID without \"/\" or \".\", got UID %q", pod.Namespace, pod.Name, pod.UID)
	}
	if err := m.load(); err != nil && m.broken(pod.UID) {
		return fmt.Errorf("start pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[pod.UID]; w != nil {
		if w.stopIntent() != nil {
			return fmt.Errorf("start pod %s/%s: %w", pod.Namespace, pod.Name, ErrStopping)
		}
		return nil
	}
	pod = pod.DeepCopy()
	pod.Status = corev1.PodStatus{}
	r := record{Pod: pod, Accepted: time.Now().UTC()}
	if err := m.store.putRecord(r); err != nil {
		return err
	}
	m.workers[pod.UID] = newWorker(m, r, state{})
	wake.Poke(m.added)
	wake.Poke(m.changed)
	return nil
}

// broken tells whether a pod has a record that could not be read.
func (m *Manager) broken(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers[uid] != nil {
		return false
	}
	_, err := os.Stat(m.store.path(uid, "pod.json"))
	return err == nil
}

// Stop ends a pod: preStop hooks, SIGTERM, the grace period, SIGKILL; then everything of it is
// removed and [Manager.Pods] no longer holds it. When Stop returns nil, that is on disk. A pod that
// is not known is stopped already.
func (m *Manager) Stop(uid types.UID, reason string) error {
	if err := m.load(); err != nil && m.broken(uid) {
		return fmt.Errorf("stop pod %s: %w", uid, err)
	}
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return nil
	}
	if err := w.stop(reason); err != nil {
		return err
	}
	wake.Poke(m.changed)
	return nil
}

// Found returns the pods that were on disk when the manager started and of which nothing runs, as after the
// machine was started anew: they wait for [Manager.Resume] or [Manager.Stop]. Before [Manager.Looked] it
// holds those too of which that is not known yet. It is sorted.
func (m *Manager) Found() []types.UID {
	if err := m.load(); err != nil {
		m.Log.Debug("some pod records cannot be read", "err", err)
	}
	var found []types.UID
	for _, w := range m.all() {
		if w.held.Load() && w.stopIntent() == nil {
			found = append(found, w.uid)
		}
	}
	slices.Sort(found)
	return found
}

// Looked is closed once the runtime was asked about every pod that was on disk when the manager started.
// What runs is taken over then.
func (m *Manager) Looked() <-chan struct{} {
	if err := m.load(); err != nil {
		m.Log.Debug("some pod records cannot be read", "err", err)
	}
	return m.looked
}

// Resume lets a pod of [Manager.Found] start again. For others it does nothing.
func (m *Manager) Resume(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil && w.held.Swap(false) {
		wake.Poke(w.wake)
	}
}

// Pods returns every pod with its present status, sorted by namespace and name. Pods that are
// being stopped carry a deletionTimestamp. The pods are shared and must not be changed.
func (m *Manager) Pods() []*corev1.Pod {
	if err := m.load(); err != nil {
		m.Log.Debug("some pod records cannot be read", "err", err)
	}
	m.mu.Lock()
	all := make([]*corev1.Pod, 0, len(m.workers))
	for _, w := range m.workers {
		all = append(all, w.snapshot.Load())
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
			return c
		}
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.UID), string(b.UID))
	})
	return all
}

// Changed tells that [Manager.Pods] may have changed since the last receive.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// ConfigChanged tells that ConfigMaps or Secrets have changed: mounted volumes follow, containers
// that wait for an object try again. Environment variables of running containers stay.
func (m *Manager) ConfigChanged() {
	for _, w := range m.all() {
		w.config.Store(true)
		wake.Poke(w.wake)
	}
}

func (m *Manager) all() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	workers := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		workers = append(workers, w)
	}
	return workers
}

// forget drops a worker whose pod has been removed.
func (m *Manager) forget(uid types.UID) {
	m.mu.Lock()
	delete(m.workers, uid)
	m.mu.Unlock()
	wake.Poke(m.added)
	wake.Poke(m.changed)
}

// removeStrangers removes sandboxes that carry this node's label and belong to no record, and pod
// directories without one: both are the rest of a removal that a crash cut short.
func (m *Manager) removeStrangers(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := m.removeStrangersOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		m.Log.Warn("remains of removed pods cannot be removed yet", "err", err, "retryIn", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (m *Manager) removeStrangersOnce(ctx context.Context) error {
	sandboxes, err := m.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{
		LabelSelector: map[string]string{LabelNode: m.NodeName},
	})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	var errs []error
	for _, s := range sandboxes {
		uid := types.UID(s.GetMetadata().GetUid())
		if m.known(uid) {
			continue
		}
		m.Log.Info("remove sandbox without a record", "pod", s.GetMetadata().GetNamespace()+"/"+s.GetMetadata().GetName(), "uid", uid)
		if err := m.Runtime.StopPodSandbox(ctx, s.GetId()); err != nil {
			errs = append(errs, fmt.Errorf("stop sandbox %s: %w", s.GetId(), err))
			continue
		}
		if err := m.Runtime.RemovePodSandbox(ctx, s.GetId()); err != nil {
			errs = append(errs, fmt.Errorf("remove sandbox %s: %w", s.GetId(), err))
			continue
		}
		if m.groups != nil {
			for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
				errs = append(errs, m.groups.Remove(m.groups.Path(uid, class)))
			}
		}
		errs = append(errs, os.RemoveAll(m.logDir(s.GetMetadata().GetNamespace(), s.GetMetadata().GetName(), uid)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, uid := range m.leftovers {
		errs = append(errs, m.removeLeftover(uid))
	}
	return errors.Join(errs...)
}

// removeLeftover removes a pod's directory that holds no record. Start waits meanwhile: the same
// pod may be asked for again.
func (m *Manager) removeLeftover(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.knownLocked(uid) {
		return nil
	}
	set := volumes.Set{Dir: filepath.Join(m.store.dir, string(uid)), Pod: &corev1.Pod{}, Mounts: m.Mounts}
	if err := set.Remove(); err != nil {
		return err
	}
	return m.store.remove(uid)
}

// known tells whether a pod has a record, readable or not.
func (m *Manager) known(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.knownLocked(uid)
}

func (m *Manager) knownLocked(uid types.UID) bool {
	if m.workers[uid] != nil {
		return true
	}
	_, err := os.Stat(m.store.path(uid, "pod.json"))
	return err == nil
}

// logDir is where the logs of a pod's containers are, as the kubelet has it.
func (m *Manager) logDir(namespace, name string, uid types.UID) string {
	return filepath.Join(m.LogDir, namespace+"_"+name+"_"+string(uid))
}

// LogDirOf is the directory of a pod's logs: <container>/<attempt>.log below it.
func (m *Manager) LogDirOf(pod *corev1.Pod) string { return m.logDir(pod.Namespace, pod.Name, pod.UID) }
