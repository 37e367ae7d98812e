package gitsync

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

// member is an accepted object with what history says of it.
type member struct {
	key          string
	digest, spec string // as manifest.Object has them
	object       reconcile.Object
	// kept is where the object was rendered last; nil when the app's accepted version has it.
	kept *origin
}

// origin is an accepted version of an app.
type origin struct {
	Commit  string       `json:"commit"`
	App     v1alpha1.App `json:"app"`
	Version int32        `json:"version"`
}

// defaultHistory is how many earlier templates are kept of kinds without a revisionHistoryLimit of
// their own, as apps/v1 has it.
const defaultHistory = 10

// uidSpace is the name space of the uids that Pleach gives (RFC 9562, section 5.5).
var uidSpace = uuid.MustParse("8f5f7c2e-5b0b-5f0e-9d0a-6f1c2b8f4a11")

// objectUID is the uid of an object that a commit brought.
func objectUID(cluster, key, commit string) types.UID {
	name := strings.Join([]string{cluster, key, commit}, "\x00")
	return types.UID(uuid.NewSHA1(uidSpace, []byte(name)).String())
}

// member finds an accepted object, whichever app has it. Its origin is set.
func (p *position) member(key string) *member {
	for _, u := range p.apps {
		if u.accepted == nil || u.accepted.digests[key] == "" {
			continue
		}
		for i := range u.members {
			if m := u.members[i]; m.key == key {
				if m.kept == nil {
					m.kept = &origin{Commit: u.commit.ID, App: u.accepted.app, Version: u.accepted.version}
				}
				return &m
			}
		}
	}
	return nil
}

// members gives the objects of a rendering that is accepted now their place in history.
func (s *step) members(ctx context.Context, r *rendering) ([]member, error) {
	members := make([]member, 0, len(r.objects))
	for _, o := range r.objects {
		key := objectKey(o.Object)
		m := member{key: key, digest: o.Digest, spec: o.Spec}
		old, err := s.before(ctx, key)
		if err != nil {
			return nil, err
		}
		switch {
		case old == nil:
			m.object = s.born(key, o)
		case old.digest == o.Digest && old.object.Source == o.Source:
			m.object = old.object
		default:
			m.object = s.grown(old, o)
		}
		members = append(members, m)
	}
	for _, o := range r.held {
		old, err := s.before(ctx, objectKey(o.Object))
		if err != nil {
			return nil, err
		}
		if old != nil { // what runs is not deleted because what follows cannot run yet
			members = append(members, *old)
		}
	}
	slices.SortFunc(members, compareMembers)
	return members, nil
}

func compareMembers(a, b member) int {
	return cmp.Or(
		cmp.Compare(a.object.Object.GetObjectKind().GroupVersionKind().Kind, b.object.Object.GetObjectKind().GroupVersionKind().Kind),
		cmp.Compare(a.object.Object.GetNamespace(), b.object.Object.GetNamespace()),
		cmp.Compare(a.object.Object.GetName(), b.object.Object.GetName()),
	)
}

// before finds an object as it was accepted before this commit.
func (s *step) before(ctx context.Context, key string) (*member, error) {
	if old := s.prev.member(key); old != nil {
		return old, nil
	}
	// A merge may bring what already ran on its other side: then it is the same object.
	return s.elsewhere(ctx, key)
}

// holding completes the warnings about held objects of which an earlier version goes on running.
func holding(warnings []manifest.Problem, members []member) []manifest.Problem {
	for i := range warnings {
		for _, m := range members {
			if w := &warnings[i]; w.Held && m.kept != nil && w.Object == manifest.Name(m.object.Object) {
				w.Reason += fmt.Sprintf("; still running: the version of commit %.12s", m.object.Commit.ID)
			}
		}
	}
	return warnings
}

// elsewhere finds an object on the sides of a merge that are not followed, so that two nodes that
// came to the merge from different sides give it one uid.
func (s *step) elsewhere(ctx context.Context, key string) (*member, error) {
	if len(s.parents) < 2 {
		return nil, nil
	}
	for _, parent := range s.parents {
		if parent == s.prev.id {
			continue
		}
		live, err := s.root.contains(parent)
		if err != nil {
			return nil, err
		}
		if !live {
			continue
		}
		p, err := s.from(ctx, parent)
		if err != nil {
			return nil, err
		}
		if m := p.member(key); m != nil {
			return m, nil
		}
	}
	return nil, nil
}

func (s *step) born(key string, o manifest.Object) reconcile.Object {
	object := copyOf(o)
	object.SetUID(objectUID(s.next.cluster.spec.Name, key, s.at.ID))
	object.SetGeneration(1)
	object.SetCreationTimestamp(metav1.NewTime(s.at.Time))
	n := reconcile.Object{Source: o.Source, Commit: s.at, Object: object}
	if o.Template != nil {
		n.Templates = []reconcile.Template{{Revision: o.Revision, Commit: s.at, Spec: *o.Template}}
	}
	return n
}

func (s *step) grown(old *member, o manifest.Object) reconcile.Object {
	object := copyOf(o)
	object.SetUID(old.object.Object.GetUID())
	object.SetGeneration(old.object.Object.GetGeneration())
	object.SetCreationTimestamp(old.object.Object.GetCreationTimestamp())
	n := reconcile.Object{Source: o.Source, Commit: old.object.Commit, Object: object, Templates: old.object.Templates}
	if old.digest == o.Digest {
		return n // it only moved to another line or file
	}
	n.Commit = s.at
	if old.spec != o.Spec {
		object.SetGeneration(object.GetGeneration() + 1)
	}
	if o.Template != nil {
		n.Templates = history(old.object.Templates, reconcile.Template{Revision: o.Revision, Commit: s.at, Spec: *o.Template}, historyLimit(object))
	}
	return n
}

// copyOf is an object of our own: renderings share theirs.
func copyOf(o manifest.Object) reconcile.K8sObject {
	c, _ := o.Object.DeepCopyObject().(reconcile.K8sObject) // a copy has the type of its original
	return c
}

// history puts a template in front of the earlier ones. One that returns moves to the front.
func history(old []reconcile.Template, now reconcile.Template, limit int) []reconcile.Template {
	if len(old) > 0 && old[0].Revision == now.Revision {
		now.Commit = old[0].Commit
	}
	h := []reconcile.Template{now}
	for _, t := range old {
		if t.Revision != now.Revision {
			h = append(h, t)
		}
	}
	return slices.Clip(h[:min(len(h), 1+limit)])
}

// historyLimit is how many templates are kept beside the current one.
func historyLimit(o reconcile.K8sObject) int {
	var limit *int32
	switch o := o.(type) {
	case *corev1.Pod:
		return 0
	case *appsv1.Deployment:
		limit = o.Spec.RevisionHistoryLimit
	case *appsv1.StatefulSet:
		limit = o.Spec.RevisionHistoryLimit
	case *appsv1.DaemonSet:
		limit = o.Spec.RevisionHistoryLimit
	}
	if limit == nil {
		return defaultHistory
	}
	return int(max(*limit, 0))
}
