package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/agent/report"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// podRuntime is what the decider asks of the pods of this node; *pods.Manager is one.
type podRuntime interface {
	Start(pod *corev1.Pod) error
	Stop(uid types.UID, reason string) error
	Pods() []*corev1.Pod
	Changed() <-chan struct{}
	ConfigChanged()
	// Found names the pods that were on disk when the agent started and do not run; they wait to be
	// resumed. Looked is closed when that is known of all.
	Found() []types.UID
	Looked() <-chan struct{}
	Resume(uid types.UID)
}

// decider runs the pass: it reads what is known into one snapshot, asks package reconcile what this
// node should do, does it, and writes down what it sees.
type decider struct {
	node    string
	flock   others
	self    func() reconcile.Document // this node apart from what it runs
	pods    podRuntime
	store   *state.Store
	publish func(statusbranch.Content)
	journal io.Writer // of what this node publishes; nil for none
	metrics *api.Metrics
	log     *slog.Logger

	memory  *decisions
	given   map[string]*reconcile.Document // documents of others that the state in memory has
	report  report.Writer                  // of what was published
	key     ed25519.PrivateKey             // signs the document
	author  author
	said    gossip.Sealed          // the last that was published
	resting <-chan time.Time       // until documents of others cause a pass again; nil when they do
	asking  map[reconcile.Ask]bool // questions under way
	answers []reconcile.Answer     // that came since the last step
	// objects are those of objectsOf.
	objects   []reconcile.Object
	objectsOf *gitsync.Accepted
	accepted  *gitsync.Accepted       // of the last pass
	since     time.Time               // when accepted was first seen here
	starting  map[types.UID]time.Time // since of the commit that brought each pod, until it is ready
}

// hearEvery is the least time between two passes that others' documents cause, so that documents that come
// one after the other make few of them. Passes that take longer than that keep their own time between them,
// so that a node whose passes take long has time for other things. Nothing else waits meanwhile.
const hearEvery = 20 * time.Millisecond

// retryAfter is the wait after a pass in which something could not be done.
const retryAfter = time.Second

// lookWithin is how long a starting agent waits to see what runs before it speaks. What is not seen by
// then is said not to be ready.
const lookWithin = 5 * time.Second

// run passes at once, at each look at the remote, at each change of what was accepted or of a pod, and
// when reconcile asks for it.
// A failed pass is logged and retried, never fatal.
func (d *decider) run(ctx context.Context) error {
	timer := time.NewTimer(lookWithin)
	defer timer.Stop()
	// The last that an agent before this one said of its pods may be from before the machine was started.
	select {
	case <-d.pods.Looked():
	case <-timer.C:
	case <-ctx.Done():
	}
	heard := false
	for {
		// Taken before the pass: what changes during it leads to another one.
		snapshot := d.store.Snapshot()
		round, done := context.WithCancel(ctx)
		changed := snapshot.Changed(round, state.Accepted, state.Remote)

		now := time.Now()
		wake, err := d.pass(ctx, snapshot, now)
		took := time.Since(now)
		d.metrics.Reconciled(took, err)
		if err != nil {
			d.log.Warn("pass failed", "err", err, "retryIn", retryAfter)
			wake = now.Add(retryAfter)
		}
		timer.Stop()
		if !wake.IsZero() {
			timer.Reset(max(time.Until(wake), time.Millisecond))
		}
		if heard {
			d.resting = time.After(max(hearEvery, took))
		}
		heard = d.await(ctx, timer.C, changed)
		done()
		if ctx.Err() != nil {
			return d.leave(time.Now()) // pods keep running: nothing here ends them
		}
	}
}

// await returns when there is cause for a pass, and reports whether it is what others have said.
func (d *decider) await(ctx context.Context, due <-chan time.Time, changed <-chan struct{}) (heard bool) {
	for {
		news := d.flock.changed()
		if d.resting != nil {
			news = nil
		}
		select {
		case <-d.resting:
			d.resting = nil
			continue
		case <-news:
			return true
		case <-ctx.Done():
		case <-due:
		case <-changed:
		case <-d.pods.Changed():
		case a := <-d.flock.answers():
			d.hear(a)
		case q := <-d.flock.questions():
			if err := d.reply(q, time.Now()); err != nil {
				d.log.Warn("another node's questions are not answered", "err", err)
			}
		}
		return false
	}
}

// leave tells the others when an agent is to be expected here again.
func (d *decider) leave(now time.Time) error {
	last := d.author.document
	if last.BackBy = d.flock.backBy(now); d.said.Node == "" || last.BackBy.IsZero() {
		return nil
	}
	last, err := d.author.write(last)
	if err != nil {
		return err
	}
	sealed, err := gossip.Encode(last, d.key)
	if err != nil {
		return err
	}
	d.flock.leave(sealed)
	return nil
}

// pass decides once and returns when it wants to be called again at the latest; zero is never.
func (d *decider) pass(ctx context.Context, snapshot state.Snapshot, now time.Time) (time.Time, error) {
	pods := d.pods.Pods()
	d.store.SetPods(pods)
	accepted := snapshot.Accepted()
	if accepted == nil {
		return time.Time{}, nil // nothing was ever accepted: nothing is started and nothing stopped
	}
	if accepted != d.accepted {
		d.accepted, d.since = accepted, now
		d.pods.ConfigChanged()
	}
	document, err := d.document(accepted, pods, now)
	if err != nil {
		return time.Time{}, err
	}
	d.measure(document.Instances, now)
	if d.said.Node == "" {
		// A starting agent says first what runs here, and asks what to do then.
		if err := d.hand(ctx, document, nil); err != nil {
			return time.Time{}, err
		}
	}
	seen := d.flock.look(accepted, now)
	in := d.input(document, seen, pods, now)
	next, decision := reconcile.Step(d.memory.State, in)
	if seen.contested {
		decision.Resume = nil // this may be the copy of a machine
		decision.Actions = slices.DeleteFunc(decision.Actions, func(a reconcile.Action) bool { return a.Kind == reconcile.Start })
	}
	d.memory.take(next, decision, now)
	d.store.SetDecided(&decision) // whatever fails from here on: it is not said again
	d.ask(ctx, decision.Asks)
	// On disk before it is done: a slot that is given up is not taken for a lost one after a crash.
	errs := []error{d.memory.save()}
	for _, a := range decision.Actions {
		errs = append(errs, d.apply(a, now))
	}
	for _, uid := range decision.Resume {
		d.log.Info("resuming", "pod", uid)
		d.pods.Resume(uid)
	}
	// The pods that were started are in the document at once: all claims of a pass go out together.
	if document.Instances, err = d.instances(d.pods.Pods()); err != nil {
		return time.Time{}, errors.Join(append(errs, err)...)
	}
	if document, err = d.say(document); err != nil {
		return time.Time{}, errors.Join(append(errs, err)...)
	}
	errs = append(errs, d.hand(ctx, document, directTo(decision.Slots)))
	d.store.SetDocument(&document) // last: who sees a head in it sees what was decided for that head
	shown := report.Input{
		Accepted: accepted, Alarm: snapshot.Remote().Alarm, Documents: append(slices.Clip(seen.documents), &document), Workloads: d.store.Snapshot().Workloads(),
	}
	signed := append(slices.Clip(seen.sealed), d.said)
	d.publish(func() (map[string][]byte, error) { return d.status(shown, signed) })
	return decision.Wake, errors.Join(errs...)
}

// status is the content of the status branch. The branch's writer asks for it when it is to be written.
func (d *decider) status(in report.Input, signed []gossip.Sealed) (map[string][]byte, error) {
	files, err := d.report.Files(in)
	if err != nil {
		return nil, err
	}
	// Beside each document for people stands the one that its node signed, for nodes that can ask no other.
	for _, sealed := range signed {
		files[statusbranch.DocumentPath(sealed.Node)] = sealed.Bytes()
	}
	return files, nil
}

// input is what is known, to decide by.
func (d *decider) input(document reconcile.Document, seen outlook, pods []*corev1.Pod, now time.Time) reconcile.Input {
	if d.objectsOf != d.accepted { // the same slice while nothing has changed
		d.objectsOf, d.objects = d.accepted, d.accepted.Objects()
	}
	in := reconcile.Input{
		Self: d.node, Boot: document.Boot, Now: now,
		Objects: d.objects, Apps: d.accepted.AppNames(), Accepted: document.Accepted,
		Nodes: nodesOf(d.accepted, d.node, seen.states), Frozen: seen.frozen, Documents: []reconcile.Document{document}, Partial: true,
		Pods: pods, Answers: d.answers, Found: d.pods.Found(),
	}
	d.answers = nil
	given := make(map[string]*reconcile.Document, len(seen.documents))
	for _, o := range seen.documents {
		if given[o.Node] = o; d.given[o.Node] != o {
			in.Documents = append(in.Documents, *o)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(d.given)) {
		if given[node] == nil {
			in.Without = append(in.Without, node)
		}
	}
	d.given = given
	return in
}

// ask puts those questions that are not under way.
func (d *decider) ask(ctx context.Context, asks []reconcile.Ask) {
	var fresh []reconcile.Ask
	for _, a := range asks {
		if !d.asking[a] {
			d.asking[a] = true
			fresh = append(fresh, a)
		}
	}
	d.flock.ask(ctx, fresh)
}

// hear takes in what came of questions, and of others that did meanwhile.
func (d *decider) hear(answers []reconcile.Answer) {
	for {
		for _, a := range answers {
			delete(d.asking, a.Ask)
		}
		d.answers = append(d.answers, answers...)
		select {
		case answers = <-d.flock.answers():
		default:
			return
		}
	}
}

// reply answers another node's questions.
func (d *decider) reply(q asked, now time.Time) error {
	if d.accepted == nil {
		return nil // it asks again, or another node
	}
	pods := d.pods.Pods()
	document, err := d.document(d.accepted, pods, now)
	if err != nil {
		return err
	}
	in := d.input(document, d.flock.look(d.accepted, now), pods, now)
	answers := make([]reconcile.Answer, len(q.asks))
	for i, a := range q.asks {
		d.memory.State, answers[i] = reconcile.Reply(d.memory.State, in, a)
	}
	q.answer <- answers // buffered by one
	return nil
}

// document says what is known before the pass decides.
func (d *decider) document(accepted *gitsync.Accepted, pods []*corev1.Pod, now time.Time) (reconcile.Document, error) {
	next := d.self()
	next.Node, next.Boot, next.Versions = d.node, d.flock.bootCounter(), specVersions
	next.Accepted, next.Head = accepted.Vector(), accepted.Head
	var err error
	if next.Instances, err = d.instances(pods); err != nil {
		return next, err
	}
	d.memory.expire(next.Instances, now)
	return d.say(next)
}

// instances says what each pod of this node is doing. Nothing that waits to be resumed is ready, whatever
// was known of it when it last ran.
func (d *decider) instances(pods []*corev1.Pod) ([]reconcile.Instance, error) {
	out, err := instances(pods)
	if found := d.pods.Found(); len(found) > 0 {
		for i := range out {
			if slices.Contains(found, out[i].UID) {
				out[i].Ready, out[i].ReadySince = false, time.Time{}
			}
		}
	}
	return out, err
}

// say adds what this node has given up and declined, and numbers the document if that is news.
func (d *decider) say(next reconcile.Document) (reconcile.Document, error) {
	next.Releases, next.Declines = slices.Clone(d.memory.Releases), slices.Clone(d.memory.Declines)
	return d.author.write(next)
}

// hand signs the document and gives it to the flock, if it is not what was said last.
func (d *decider) hand(ctx context.Context, document reconcile.Document, direct []string) error {
	if n := d.said.Version.Number; d.said.Node != "" && int64(n.Boot) == document.Boot && int64(n.Seq) == document.Seq {
		return nil
	}
	sealed, err := gossip.Encode(document, d.key)
	if err != nil {
		return err
	}
	d.said = sealed
	if d.journal != nil {
		// Before anybody hears of it, so that journals of several nodes can be put in order.
		if err := write(d.journal, document); err != nil {
			d.log.Warn("the journal lacks a document", "err", err)
		}
	}
	d.flock.publish(ctx, sealed, direct)
	return nil
}

// measure reports how long each pod took from the sight of its commit to being ready.
func (d *decider) measure(instances []reconcile.Instance, now time.Time) {
	for _, i := range instances {
		since, ok := d.starting[i.UID]
		if !ok || !i.Ready && !i.Terminating {
			continue
		}
		delete(d.starting, i.UID)
		if i.Ready {
			d.metrics.PodReady(now.Sub(since))
		}
	}
}

// apply carries out one action. One that failed is asked for again by the next pass.
func (d *decider) apply(a reconcile.Action, now time.Time) error {
	happened := func(reason, message string) {
		i := a.Instance
		d.store.Record(state.Happening{
			Object: corev1.ObjectReference{Kind: i.Kind, Namespace: i.Namespace, Name: i.Owner, UID: i.Slot.Workload},
			Type:   corev1.EventTypeNormal, Reason: reason, Message: message, Host: d.node, At: now,
		})
	}
	d.log.Info("acting", "action", a.Kind, "pod", a.Instance.Namespace+"/"+a.Instance.Name, "reason", a.Reason, "by", a.By)
	switch a.Kind {
	case reconcile.Start:
		if err := d.pods.Start(a.Pod); err != nil {
			return err
		}
		d.starting[a.Pod.UID] = d.since
		happened("SuccessfulCreate", "Created pod "+a.Instance.Name+": "+a.Reason)
	case reconcile.Stop:
		if err := d.pods.Stop(a.Instance.UID, a.Reason); err != nil {
			return err
		}
		happened("SuccessfulDelete", "Deleted pod "+a.Instance.Name+": "+a.Reason)
	default:
		return fmt.Errorf("%s: this agent knows no action %q", a.Instance.Name, a.Kind)
	}
	return nil
}
