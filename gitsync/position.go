package gitsync

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/policy"
	"github.com/pleachdev/pleach/reconcile"
)

// position is what the walk knows when it has reached a commit. Positions share their parts and
// are never changed; a step makes the next one.
type position struct {
	id string // the commit reached
	// tree is the newest commit up to id whose tree could be read; "" for none.
	tree string
	// trusted is the newest commit up to id that a known signer vouches for as a whole.
	trusted reconcile.Commit
	cluster *clusterUnit
	apps    map[string]*appUnit

	// tainted maps a path to the refused commit that gave it its present content, see launder.go.
	tainted map[string]taint
	// blind is a refused commit by a stranger whose tree could not be read.
	blind string
	// silent are the known signers of commits whose tree could not be read, since the last that could.
	silent []actor
	// refused lists the commits since trusted that were refused as a whole and changed no unit.
	refused []Refusal
}

// taint is the mark that a refused commit leaves on a path.
type taint struct {
	By   string `json:"by"`             // the refused commit
	Base string `json:"base,omitempty"` // object id of the content before it; "" when there was no file
}

// actor is a known signer and a commit that he signed.
type actor struct {
	By     trust.Identity `json:"by"`
	Commit string         `json:"commit"`
}

func (p *position) next(id string) *position {
	n := *p
	n.id = id
	n.apps = maps.Clone(p.apps)
	n.tainted = maps.Clone(p.tainted)
	return &n
}

// maxRefusals bounds how many refusals of one unit are kept: the newest.
const maxRefusals = 32

// withRefusal is the list with one more refusal; the old list is not changed.
func withRefusal(list []Refusal, r Refusal) []Refusal {
	if len(list) >= maxRefusals {
		list = list[len(list)-maxRefusals+1:]
	}
	return append(slices.Clip(list), r)
}

// clusterUnit is the accepted version of the cluster's own files.
type clusterUnit struct {
	commit   reconcile.Commit
	files    map[string]string // path to object id
	spec     v1alpha1.Cluster
	nodes    []*corev1.Node
	signers  *trust.AllowedSigners
	policies *policy.Set
	// at holds the files of the position; the same map as files when they are accepted.
	at       map[string]string
	refusals []Refusal
}

// appUnit is the accepted version of an app, and what stands against the versions after it.
type appUnit struct {
	commit   reconcile.Commit // zero when no version was accepted yet
	accepted *rendering       // without objects; nil when no version was accepted yet
	// members are what runs of the accepted version, sorted as manifest.Result.Objects: its objects, and
	// earlier versions of those that it holds.
	members  []member
	warnings []manifest.Problem

	// at is the rendering of the position; nil when it is the accepted one.
	at       *rendering
	refusals []Refusal
	// tainted maps an object's key to the refused commit that made it what it is now.
	tainted map[string]string
	// files is position.tainted for this app alone: changes that their signer may not make.
	files map[string]taint
	// blind is a refused commit that touched the app while it could not be rendered.
	blind string
	// broken are the known signers who changed the app since it last rendered. Which objects they
	// changed nobody can say, so that each of them must be allowed what differs when it renders again.
	broken []actor
}

// position is the app's rendering at the position; nil when there was none.
func (u *appUnit) position() *rendering {
	if u.at != nil {
		return u.at
	}
	return u.accepted
}

func (u *appUnit) clone() *appUnit {
	n := *u
	n.tainted = maps.Clone(u.tainted)
	n.files = maps.Clone(u.files)
	n.broken = slices.Clip(u.broken)
	return &n
}

// rendering is an app at one commit.
type rendering struct {
	app     v1alpha1.App
	version int32 // spec.version
	trace   manifest.Trace
	// digests maps the keys of the objects, also of held ones, to their digests; nil when the app does
	// not render.
	digests map[string]string
	objects []manifest.Object // nil when only what is above is kept
	held    []manifest.Object // see manifest.Result
	errors  []manifest.Problem
	warns   []manifest.Problem
	// unreadable is set when the commit's tree could not be read: nothing compares equal to it.
	unreadable bool
}

func (r *rendering) ok() bool { return r != nil && r.digests != nil }

// slim is what is kept of a rendering once its objects have found their place.
func (r *rendering) slim() *rendering {
	return &rendering{app: r.app, version: r.version, trace: r.trace, digests: r.digests}
}

// objectKey names an object whatever its API version: "Deployment.apps default/web".
func objectKey(o reconcile.K8sObject) string {
	gk := o.GetObjectKind().GroupVersionKind().GroupKind()
	return gk.String() + " " + o.GetNamespace() + "/" + o.GetName()
}

// differing lists the keys whose digests differ, sorted.
func differing(a, b map[string]string) []string {
	var keys []string
	for k, d := range a {
		if b[k] != d {
			keys = append(keys, k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
