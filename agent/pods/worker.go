package pods

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/images"
	"github.com/pleachdev/pleach/agent/volumes"
	"github.com/pleachdev/pleach/agent/wake"
)

// A worker brings one pod to where it should be. Its loop alone reads and writes its fields; slow
// steps run as tasks beside it and hand their outcome back to the loop.
type worker struct {
	m   *Manager
	uid types.UID
	dir string
	log *slog.Logger

	wake     chan struct{} // buffered by one
	dirty    atomic.Bool   // the runtime has news
	config   atomic.Bool   // ConfigMaps or Secrets have changed
	held     atomic.Bool   // was on disk at the start, and nothing of it was seen to run: see Manager.Found
	snapshot atomic.Pointer[corev1.Pod]

	mu     sync.Mutex // guards record.Stop, which Stop sets from outside
	record record

	state    state
	obs      observation
	observed bool // obs holds something
	loaded   bool // was on disk at the start, and has published nothing since

	tasks    map[string]context.CancelFunc // running, by key
	outcomes chan func()
	wg       sync.WaitGroup

	volumes      step // volumes and files on the node
	sandbox      step
	containers   map[string]*container
	stopping     retry
	observing    retry
	cleaned      bool // a final pod has nothing left but its record, logs and dead containers
	removed      bool
	stateUnsaved bool
	lastWords    map[string]string // termination messages by container id
	ctx          context.Context   // of the loop
}

// A step is something that must have been done once before containers can start.
type step struct {
	done   bool
	retry  retry
	reason string // why it is not done, for the status; "" while it is under way
	err    string
}

// A container is what the worker knows of one container beside what the runtime knows.
type container struct {
	spec    *corev1.Container
	init    bool
	sidecar bool // an init container with restartPolicy Always

	image      images.Image
	imageReady bool
	retry      retry  // of creating and starting it
	reason     string // why it waits; "" for the usual reason
	message    string
	hooking    string // id of the instance whose postStart hook is running
	prober     *prober
}

// keys of tasks that are not a container's
const (
	taskVolumes = "/volumes"
	taskSandbox = "/sandbox"
	taskStop    = "/stop"
	taskImage   = "/image/" // and the container's name
)

func newWorker(m *Manager, r record, st state) *worker {
	w := &worker{
		m: m, uid: r.Pod.UID, record: r, state: st,
		dir:        filepath.Join(m.store.dir, string(r.Pod.UID)),
		log:        m.Log.With("pod", r.Pod.Namespace+"/"+r.Pod.Name),
		wake:       make(chan struct{}, 1),
		tasks:      map[string]context.CancelFunc{},
		outcomes:   make(chan func()),
		containers: map[string]*container{},
		lastWords:  map[string]string{},
	}
	for i := range r.Pod.Spec.InitContainers {
		c := &r.Pod.Spec.InitContainers[i]
		w.containers[c.Name] = &container{
			spec: c, init: true,
			sidecar: c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways,
		}
	}
	for i := range r.Pod.Spec.Containers {
		c := &r.Pod.Spec.Containers[i]
		w.containers[c.Name] = &container{spec: c}
	}
	if w.state.BackOffs == nil {
		w.state.BackOffs = map[string]backOff{}
	}
	w.dirty.Store(true)
	if st.Version == 0 {
		w.state.Status = w.status(time.Now())
	}
	w.snapshot.Store(w.decorated(&w.state.Status))
	return w
}

func (w *worker) pod() *corev1.Pod { return w.record.Pod }

// stop writes down that the pod is to end. It is called from outside of the loop.
func (w *worker) stop(reason string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.record.Stop != nil {
		return nil
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if g := w.record.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	r := w.record
	r.Stop = &stopIntent{At: time.Now().UTC(), GraceSeconds: grace, Reason: reason}
	if err := w.m.store.putRecord(r); err != nil {
		return err
	}
	w.record.Stop = r.Stop
	last := w.snapshot.Load()
	w.snapshot.Store(withDeletion(last.DeepCopy(), r.Stop))
	wake.Poke(w.wake)
	return nil
}

func (w *worker) stopIntent() *stopIntent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.Stop
}

// run works until ctx ends or the pod has been removed.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer w.wg.Wait()
	defer cancel()
	w.ctx = ctx
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		case outcome := <-w.outcomes:
			outcome()
		}
		// Outcomes that are there already are one pass together.
		for more := true; more; {
			select {
			case outcome := <-w.outcomes:
				outcome()
			default:
				more = false
			}
		}
		if w.removed {
			w.m.forget(w.uid)
			return
		}
		timer.Reset(w.pass(ctx))
	}
}

// never is a pass' answer when only an event can change something.
const never = time.Hour

// pass looks, acts and publishes. It returns when to pass again at the latest.
func (w *worker) pass(ctx context.Context) time.Duration {
	now := time.Now()
	if first := !w.observed; w.dirty.Swap(false) {
		if err := w.observe(ctx); err != nil {
			if ctx.Err() != nil {
				return never
			}
			w.dirty.Store(true)
			w.observing.failed(now)
			w.log.Warn("look at the pod", "err", err, "retryIn", w.observing.delay)
			return w.observing.delay
		}
		w.observing.reset()
		if first {
			w.log.Debug("observed for the first time", "containers", len(w.obs.containers))
			w.takeOver()
		}
	}
	if !w.observed {
		return never
	}
	var next time.Time
	switch stop := w.stopIntent(); {
	case stop != nil:
		next = w.end(ctx, now, func(ctx context.Context) error { return w.remove(ctx, stop) }, w.drop)
	case w.state.Final:
		next = w.settle(ctx, now)
	case w.state.Failing != nil:
		next = w.end(ctx, now, w.halt, w.finish)
	case w.held.Load():
	default:
		next = w.advance(ctx, now)
	}
	w.publish(time.Now())
	if w.loaded {
		w.loaded = false
		if w.m.unlooked.Add(-1) == 0 {
			close(w.m.looked)
		}
	}
	if next.IsZero() {
		return never
	}
	return max(time.Until(next), 0)
}

// takeOver goes on with what was found running; a pod of which nothing runs waits to be resumed.
func (w *worker) takeOver() {
	if w.obs.ready() {
		w.held.Store(false)
	}
	if w.held.Load() && w.stopIntent() == nil {
		w.event(corev1.EventTypeNormal, "Held", "nothing of it runs since the machine was started; it waits until the other nodes were heard")
	}
}

// spawn runs a task beside the loop unless one with its key is running. The function that it
// returns is called in the loop.
func (w *worker) spawn(ctx context.Context, key string, task func(ctx context.Context) func()) {
	if _, running := w.tasks[key]; running {
		return
	}
	taskCtx, cancel := context.WithCancel(ctx)
	w.tasks[key] = cancel
	w.wg.Go(func() {
		outcome := task(taskCtx)
		cancel()
		w.post(ctx, func() {
			delete(w.tasks, key)
			if outcome != nil {
				outcome()
			}
		})
	})
}

// post has f called in the loop.
func (w *worker) post(ctx context.Context, f func()) {
	select {
	case w.outcomes <- f:
	case <-ctx.Done():
	}
}

func (w *worker) busy(key string) bool {
	_, running := w.tasks[key]
	return running
}

// end cancels what is under way, then runs a stopping task until it succeeds and done, called in the
// loop, too.
func (w *worker) end(ctx context.Context, now time.Time, task func(context.Context) error, done func() error) time.Time {
	w.stopProbes()
	if w.busy(taskStop) {
		return time.Time{}
	}
	for _, cancel := range w.tasks {
		cancel()
	}
	if len(w.tasks) > 0 {
		return time.Time{} // each hands back an outcome, and the loop passes again
	}
	if now.Before(w.stopping.at) {
		return w.stopping.at
	}
	w.spawn(ctx, taskStop, func(taskCtx context.Context) func() {
		err := task(taskCtx)
		return func() {
			w.dirty.Store(true)
			if err == nil {
				err = done()
			}
			switch {
			case err == nil:
				w.stopping.reset()
			case ctx.Err() == nil:
				w.stopping.failed(time.Now())
				w.event(corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+err.Error())
				w.log.Warn("stop the pod", "err", err, "retryIn", w.stopping.delay)
			}
		}
	})
	return time.Time{}
}

// fail ends the pod before its time.
func (w *worker) fail(reason, message string) {
	if w.state.Failing != nil || w.state.Final {
		return
	}
	w.state.Failing = &failing{Reason: reason, Message: message}
	w.event(corev1.EventTypeWarning, reason, message)
	w.stateUnsaved = true
}

// finish makes the pod's present end final.
func (w *worker) finish() error {
	w.state.Final = true
	w.stateUnsaved = true
	return nil
}

// drop forgets the pod. It runs in the loop, which otherwise might write a state meanwhile and so
// bring the directory back.
func (w *worker) drop() error {
	if err := w.m.store.remove(w.uid); err != nil {
		return err
	}
	w.removed = true
	return nil
}

// settle gives back what a finished pod holds: its address, volumes and control group. Logs and
// dead containers stay for people to look at until the pod is stopped.
func (w *worker) settle(ctx context.Context, now time.Time) time.Time {
	if w.cleaned {
		return time.Time{}
	}
	return w.end(ctx, now, func(ctx context.Context) error {
		if err := w.halt(ctx); err != nil {
			return err
		}
		return w.volumeRemover().Remove()
	}, func() error { w.cleaned = true; return nil })
}

func (w *worker) volumeSet() *volumes.Set {
	limits := podLimits(w.pod())
	return &volumes.Set{
		Dir: w.dir, Pod: w.pod(), Objects: w.m.Lookup, Fields: w.fields(""), Mounts: w.m.Mounts,
		MemoryLimit: limits.Memory().Value(),
	}
}

func (w *worker) event(kind, reason, message string) {
	w.m.Recorder(w.snapshot.Load(), kind, reason, message)
}

func (w *worker) eventf(kind, reason, format string, args ...any) {
	w.event(kind, reason, fmt.Sprintf(format, args...))
}
