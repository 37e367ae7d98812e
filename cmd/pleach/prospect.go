package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/foretell"
)

// prospect is what a clone of the config repository and a description of the flock tell together:
// what is accepted, what would be, and on which machines.
type prospect struct {
	base, head revision
	foresight  *gitsync.Foresight
	documents  []reconcile.Document // what runs; none when nobody said
	origin     string               // of the documents, for people
	described  map[string]*corev1.Node
	notes      []string
}

// revision is a commit and how the user named it.
type revision struct {
	Name string `json:"name,omitempty"`
	ID   string `json:"commit,omitempty"`
}

func (r revision) String() string {
	if r.ID == "" {
		return "nothing"
	}
	if r.Name == "" || strings.HasPrefix(r.ID, r.Name) {
		return r.ID[:12]
	}
	return fmt.Sprintf("%s (%.12s)", r.Name, r.ID)
}

// prospectOptions are the flags that say where to look.
type prospectOptions struct {
	repository, introduction, nodes string
	empty                           bool
}

func (o *prospectOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.nodes, "nodes", "", "a file with what the nodes can take and run: a List of Nodes and Pods, or documents of the status branch")
	f.BoolVar(&o.empty, "empty", false, "begin with nodes that run nothing, whatever the status branch says")
	f.StringVar(&o.introduction, "introduction", "", "the commit that the nodes were enrolled with: objects then have their true uids and histories")
}

// unknownSize is what a node of unknown size is taken to have room for.
var unknownSize = corev1.ResourceList{
	corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("4Ti"),
	corev1.ResourceEphemeralStorage: resource.MustParse("100Ti"), corev1.ResourcePods: resource.MustParse("110"),
}

// look reads everything. revisions is "BASE..HEAD", "HEAD", or "" for what is accepted to HEAD.
func (o *prospectOptions) look(ctx context.Context, revisions string) (*prospect, error) {
	clone, err := gitstore.OpenClone(o.repository)
	if err != nil {
		return nil, err
	}
	defer clone.Close() // only read from
	p := &prospect{described: map[string]*corev1.Node{}}
	if err := p.resolve(clone, revisions); err != nil {
		return nil, err
	}
	introduction := ""
	if o.introduction != "" {
		if introduction, err = clone.Resolve(o.introduction); err != nil {
			return nil, err
		}
	}
	p.foresight, err = gitsync.Foresee(ctx, clone.Store, introduction, p.base.ID, p.head.ID, nil)
	if object, ok := errors.AsType[*gitstore.ObjectError](err); ok && object.Missing && clone.Shallow() {
		return nil, fmt.Errorf("the clone is shallow, and commit %.12s is not in it: git fetch --unshallow", object.ID)
	}
	if err != nil {
		return nil, err
	}
	if p.foresight.Before == nil && p.base.ID != "" {
		p.note("%s has no pleach.yaml: all is new", p.base)
		p.base = revision{}
	}
	if n := len(p.foresight.Unsigned); n > 0 && p.foresight.Assumed {
		p.note("%s of nobody known (%s): the agents accept the content only in a commit or merge that somebody whom trust/allowed_signers knows signs; "+
			"the plan takes it as one such commit", count(n, "commit"), printable(p.foresight.Unsigned[n-1].Reason))
	}
	switch {
	case o.empty:
	case o.nodes != "":
		err = p.describe(o.nodes)
	default:
		err = p.lastKnown(clone)
	}
	if err != nil {
		return nil, err
	}
	p.enrolled()
	p.recognise()
	return p, nil
}

func (p *prospect) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// resolve finds the two commits.
func (p *prospect) resolve(clone *gitstore.Clone, revisions string) (err error) {
	base, head, both := strings.Cut(revisions, "..")
	if !both {
		base, head = clone.Remote(), revisions
		if base == "" {
			p.note("no branch of a remote origin in this clone: all is new; name what is accepted with BASE..HEAD")
		}
	}
	head = cmp.Or(head, "HEAD")
	if p.head.ID, err = clone.Resolve(head); err != nil {
		return err
	}
	p.head.Name, p.base.Name = head, base
	if base != "" {
		p.base.ID, err = clone.Resolve(base)
	}
	return err
}

// lastKnown reads the status branch as it was fetched last.
func (p *prospect) lastKnown(clone *gitstore.Clone) error {
	branch := "origin/" + cmp.Or(p.latest().Cluster.Spec.Status.Branch, statusbranch.DefaultBranch)
	id, err := clone.Resolve("refs/remotes/" + branch)
	if err != nil {
		return nil //nolint:nilerr // nobody said what runs; enrolled says what follows from that
	}
	tree, err := clone.Tree(id)
	if err != nil {
		return fmt.Errorf("%s: %w", branch, err)
	}
	entries, err := tree.ReadDir("status")
	if err != nil {
		return nil //nolint:nilerr // a branch of that name that no agent has written
	}
	for _, e := range entries {
		if path.Ext(e.Name()) != ".json" {
			continue
		}
		data, err := tree.ReadFile(path.Join("status", e.Name()))
		if err != nil {
			return fmt.Errorf("%s: %w", branch, err)
		}
		if err := p.read(fmt.Sprintf("%s:status/%s", branch, e.Name()), data); err != nil {
			return err
		}
	}
	if len(p.documents) > 0 {
		p.origin = branch
	}
	return nil
}

// latest is the newest state that the prospect knows.
func (p *prospect) latest() *gitsync.Accepted { return p.foresight.After }

// states are the accepted states, oldest first.
func (p *prospect) states() []*gitsync.Accepted {
	if p.foresight.Before == nil {
		return []*gitsync.Accepted{p.foresight.After}
	}
	return []*gitsync.Accepted{p.foresight.Before, p.foresight.After}
}

// enrolled joins what the commits say of the nodes with what is known of their sizes.
func (p *prospect) enrolled() {
	names, unknown := map[string]bool{}, map[string]bool{}
	documented := map[string]bool{}
	for _, d := range p.documents {
		documented[d.Node] = len(d.Allocatable) > 0
	}
	for _, a := range p.states() {
		a.Nodes = slices.Clone(a.Nodes)
		for i, n := range a.Nodes {
			names[n.Name] = true
			n = n.DeepCopy() // what was accepted is not changed
			if known := p.described[n.Name]; known != nil {
				for k, v := range known.Labels {
					if _, ok := n.Labels[k]; !ok {
						n.Labels = setLabel(n.Labels, k, v)
					}
				}
				if len(n.Status.Allocatable) == 0 {
					n.Status.Allocatable = known.Status.Allocatable
				}
			}
			if len(n.Status.Allocatable) == 0 && !documented[n.Name] {
				n.Status.Allocatable = unknownSize
				unknown[n.Name] = true
			}
			a.Nodes[i] = n
		}
	}
	stranger := func(name string) bool { return !names[name] }
	for _, name := range slices.Sorted(maps.Keys(p.described)) {
		if stranger(name) {
			p.note("node %s is not enrolled in nodes/, and left out", name)
		}
	}
	p.documents = slices.DeleteFunc(p.documents, func(d reconcile.Document) bool {
		if stranger(d.Node) && p.described[d.Node] == nil {
			p.note("node %s is not enrolled in nodes/, and left out", d.Node)
		}
		return stranger(d.Node)
	})
	if len(unknown) > 0 {
		p.note("nobody said what %s can take (--nodes FILE, or fetch the status branch): taken as room for 110 pods of any size", list(unknown))
	}
	if len(p.documents) == 0 {
		p.origin = ""
	}
	if len(p.documents) == 0 && p.foresight.Before != nil {
		p.note("nobody said what runs: placed as if the flock had started with %s", p.base)
	}
}

func setLabel(labels map[string]string, key, value string) map[string]string {
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	return labels
}

// list names some of many.
func list(names map[string]bool) string {
	sorted := slices.Sorted(maps.Keys(names))
	if len(sorted) > 4 {
		return fmt.Sprintf("%s and %d more nodes", strings.Join(sorted[:3], ", "), len(sorted)-3)
	}
	return strings.Join(sorted, ", ")
}

// recognise gives objects the uids by which the pods that run know them: they follow from the commit that
// brought the object, which a walk from the base alone does not see.
func (p *prospect) recognise() {
	type owner struct{ kind, namespace, name string }
	known := map[owner]types.UID{}
	for _, d := range p.documents {
		for _, m := range d.Instances {
			known[owner{m.Kind, m.Namespace, m.Owner}] = m.Slot.Workload
		}
	}
	if p.foresight.Before == nil {
		return // nothing can run of what is new
	}
	renamed := map[types.UID]types.UID{}
	for i, a := range p.states() {
		for _, app := range a.Apps {
			for j, o := range app.Objects {
				uid := o.Object.GetUID()
				if i == 0 && len(o.Templates) > 0 {
					if to := known[owner{o.Object.GetObjectKind().GroupVersionKind().Kind, o.Object.GetNamespace(), o.Object.GetName()}]; to != "" {
						renamed[uid] = to
					}
				}
				if to := renamed[uid]; to != "" && to != uid {
					app.Objects[j] = withUID(o, to)
				}
			}
		}
	}
}

func withUID(o reconcile.Object, uid types.UID) reconcile.Object {
	if c, ok := o.Object.DeepCopyObject().(reconcile.K8sObject); ok {
		c.SetUID(uid)
		o.Object = c
	}
	return o
}

// wanted is a state as a flock is asked to run it.
func wanted(a *gitsync.Accepted) foretell.Wanted {
	return foretell.Wanted{Apps: a.AppNames(), Accepted: a.Vector(), Objects: a.Objects(), Nodes: a.Nodes}
}
