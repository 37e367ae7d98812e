package gitsync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// Foresight is what the agents will make of a commit once the branch they follow is there.
type Foresight struct {
	// Before is what is accepted at the base; nil when there is nothing of Pleach yet.
	Before *Accepted
	After  *Accepted
	// Unsigned lists the commits from the base to the head that nobody known has signed, oldest first.
	Unsigned []Refusal
	// Assumed says that the head is one of them. Then After is what the agents accept when somebody
	// known makes the same change in one commit, as by merging it.
	Assumed bool
}

// Foresee judges the commits from base to head by the very rules by which agents walk. The store is
// only read. base is "" when nothing is accepted yet. What is accepted at the base is found by a walk
// from the introduction that agents were enrolled with; when that is "", the base stands for it, and
// the objects have uids, generations and earlier revisions as if the base had brought them.
//
// It errors when head does not contain base, and when the base or, without a
// base, the head cannot be accepted by itself.
func Foresee(ctx context.Context, store *gitstore.Store, introduction, base, head string, judge Judge) (*Foresight, error) {
	if judge == nil {
		judge = KnownSigners{}
	}
	if base != "" {
		if empty, err := withoutCluster(store, base); err != nil {
			return nil, err
		} else if empty {
			base = ""
		}
	}
	if empty, err := withoutCluster(store, head); err != nil {
		return nil, err
	} else if empty {
		return nil, fmt.Errorf("%.12s has no %s: it is no commit of a config repository", head, v1alpha1.ClusterFile)
	}
	f := &Foresight{}
	if base == "" {
		p, err := f.first(ctx, store, head, judge)
		if err == nil {
			f.After = p.accepted()
		}
		return f, err
	}
	if introduction == "" {
		introduction = base
	}
	w, err := newWalker(store, introduction, judge)
	if err != nil {
		return nil, err
	}
	w.assumed = map[string]bool{introduction: true}
	from, err := w.from(ctx, base)
	if err != nil {
		return nil, err
	}
	f.Before = from.accepted()
	way, err := newDescent(store, base)
	if err != nil {
		return nil, err
	}
	path, err := way.path(head)
	if errors.Is(err, errNotDescendant) {
		return nil, fmt.Errorf("%.12s does not contain %.12s, so that no agent would follow from one to the other: "+
			"merge or rebase first, or name the commit where they part", head, base)
	}
	if err != nil {
		return nil, err
	}
	to := from
	for _, id := range path {
		if to, err = w.step(ctx, to, id); err != nil {
			return nil, err
		}
		if to.trusted.ID != id {
			f.Unsigned = append(f.Unsigned, to.refusal(id))
		}
	}
	if to.trusted.ID != head {
		f.Assumed = true
		w.assumed[head] = true
		if to, err = w.step(ctx, from, head); err != nil {
			return nil, err
		}
	}
	f.After = to.accepted()
	return f, nil
}

// first is the position of a commit with which everything begins.
func (f *Foresight) first(ctx context.Context, store *gitstore.Store, head string, judge Judge) (*position, error) {
	w, err := newWalker(store, head, judge)
	if err != nil {
		return nil, err
	}
	p, err := w.from(ctx, head)
	if unsigned, ok := errors.AsType[*unvouchedError](err); ok {
		f.Unsigned, f.Assumed = []Refusal{unsigned.refusal}, true
		w.assumed = map[string]bool{head: true}
		p, err = w.from(ctx, head)
	}
	return p, err
}

// refusal finds why a commit was refused.
func (p *position) refusal(id string) Refusal {
	lists := [][]Refusal{p.refused, p.cluster.refusals}
	for _, u := range p.apps {
		lists = append(lists, u.refusals)
	}
	for _, list := range lists {
		if i := slices.IndexFunc(list, func(r Refusal) bool { return r.Commit.ID == id }); i >= 0 {
			r := list[i]
			r.App = ""
			return r
		}
	}
	return Refusal{}
}

// withoutCluster reports whether a commit has no pleach.yaml.
func withoutCluster(store *gitstore.Store, commit string) (bool, error) {
	t, err := store.Tree(commit)
	if err != nil {
		return false, err
	}
	return !isFile(t, v1alpha1.ClusterFile), nil
}
