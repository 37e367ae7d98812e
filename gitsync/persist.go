package gitsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state/durable"
)

// stateVersion is the version of the state file. A file of another version counts as lost.
const stateVersion = 1

// savedState is the state file: what cannot be read from the store at one commit. All the rest is
// rendered again from the commits that it names.
type savedState struct {
	Version      int              `json:"version"`
	Introduction string           `json:"introduction"`
	Trusted      reconcile.Commit `json:"trusted"`
	Head         string           `json:"head"` // last seen; Trusted, or refused commits after it
	Straight     bool             `json:"straight"`

	Cluster         reconcile.Commit    `json:"cluster"`
	ClusterRefusals []Refusal           `json:"clusterRefusals,omitempty"`
	Tainted         map[string]taint    `json:"tainted,omitempty"`
	Apps            map[string]savedApp `json:"apps"`
}

type savedApp struct {
	Commit reconcile.Commit `json:"commit"`
	// App and Version are what the accepted version was rendered by.
	App      v1alpha1.App       `json:"app"`
	Version  int32              `json:"version"`
	Members  []savedMember      `json:"members,omitempty"`
	Warnings []manifest.Problem `json:"warnings,omitempty"`
	Refusals []Refusal          `json:"refusals,omitempty"`
	Tainted  map[string]string  `json:"tainted,omitempty"`
	Files    map[string]taint   `json:"files,omitempty"`
	Blind    string             `json:"blind,omitempty"`
	Broken   []actor            `json:"broken,omitempty"`
}

type savedMember struct {
	Key        string           `json:"key"`
	Digest     string           `json:"digest"`
	UID        types.UID        `json:"uid"`
	Generation int64            `json:"generation"`
	Created    metav1.Time      `json:"created"`
	Commit     reconcile.Commit `json:"commit"`
	Kept       *origin          `json:"kept,omitempty"`
	// Templates lacks the first one's spec.
	Templates []reconcile.Template `json:"templates,omitempty"`
}

func (s *Syncer) statePath() string { return filepath.Join(s.cfg.Dir, "accepted.json") }

// save makes a walk's outcome durable.
func (s *Syncer) save(w walked) error {
	p := w.base
	st := savedState{
		Version: stateVersion, Introduction: s.cfg.Introduction, Trusted: p.trusted, Head: w.tip.id, Straight: w.straight,
		Cluster: p.cluster.commit, ClusterRefusals: p.cluster.refusals, Tainted: p.tainted,
		Apps: make(map[string]savedApp, len(p.apps)),
	}
	for name, u := range p.apps {
		a := savedApp{
			Commit: u.commit, Warnings: u.warnings,
			Refusals: u.refusals, Tainted: u.tainted, Files: u.files, Blind: u.blind, Broken: u.broken,
		}
		if u.accepted != nil {
			a.App, a.Version = u.accepted.app, u.accepted.version
		}
		for _, m := range u.members {
			o := m.object
			templates := slices.Clone(o.Templates)
			if len(templates) > 0 {
				templates[0].Spec = corev1.PodTemplateSpec{} // is rendered again
			}
			a.Members = append(a.Members, savedMember{
				Key: m.key, Digest: m.digest, UID: o.Object.GetUID(), Generation: o.Object.GetGeneration(),
				Created: o.Object.GetCreationTimestamp(), Commit: o.Commit, Kept: m.kept, Templates: templates,
			})
		}
		st.Apps[name] = a
	}
	data, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("write %s: %w", s.statePath(), err)
	}
	return durable.WriteFile(s.statePath(), data)
}

// restore loads what was accepted before. It errors only when the state file cannot be read, or the
// context ended: what cannot be rebuilt is walked again from the introduction.
func (s *Syncer) restore(ctx context.Context) error {
	old, err := filepath.Glob(filepath.Join(s.cfg.Dir, ".accepted.json-*"))
	if err != nil {
		return err
	}
	for _, name := range old { // of a process that was killed while writing
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(s.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	w, err := s.rebuild(ctx, data)
	if err == nil {
		s.publish(w)
		return nil
	}
	s.walker = nil
	s.remote.Err = fmt.Sprintf("%s: %v; the history is judged again from the introduction", s.statePath(), err)
	return ctx.Err()
}

var errDamaged = errors.New("does not fit the store")

// rebuild renders what the state file names.
func (s *Syncer) rebuild(ctx context.Context, data []byte) (walked, error) {
	var st savedState
	if err := json.Unmarshal(data, &st); err != nil {
		return walked{}, err
	}
	if st.Version != stateVersion {
		return walked{}, fmt.Errorf("has version %d, want %d", st.Version, stateVersion)
	}
	if st.Introduction != s.cfg.Introduction {
		return walked{}, fmt.Errorf("is of the introduction %.12s", st.Introduction)
	}
	var err error
	if s.walker, err = newWalker(s.store, s.cfg.Introduction, s.cfg.Judge); err != nil {
		return walked{}, err
	}
	p := &position{id: st.Trusted.ID, tree: st.Trusted.ID, trusted: st.Trusted, tainted: st.Tainted, apps: map[string]*appUnit{}}
	if p.tainted == nil {
		p.tainted = map[string]taint{}
	}
	tree, err := s.store.Tree(st.Trusted.ID)
	if err != nil {
		return walked{}, err
	}
	clusterTree, err := s.store.Tree(st.Cluster.ID)
	if err != nil {
		return walked{}, err
	}
	cluster, problems, err := loadCluster(clusterTree)
	if err != nil || len(problems) > 0 {
		return walked{}, errors.Join(err, errDamaged)
	}
	cluster.commit, cluster.refusals = st.Cluster, st.ClusterRefusals
	if cluster.files, err = clusterFiles(clusterTree); err != nil {
		return walked{}, err
	}
	if cluster.at, err = clusterFiles(tree); err != nil {
		return walked{}, err
	}
	p.cluster = cluster
	apps := appsByName(cluster.spec.Spec.Apps)
	if !maps.EqualFunc(apps, st.Apps, func(v1alpha1.App, savedApp) bool { return true }) {
		return walked{}, errDamaged
	}
	now := &step{walker: s.walker, examined: &examined{tree: tree}, next: p}
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		u, err := s.rebuildApp(st.Apps[name])
		if err != nil {
			return walked{}, err
		}
		r, err := now.render(u, apps[name])
		if err != nil {
			return walked{}, err
		}
		u.stay(r)
		p.apps[name] = u
	}
	w := walked{base: p, straight: st.Straight}
	if st.Straight {
		s.walker.remember(p)
	}
	trusted, err := newDescent(s.store, p.id)
	if err != nil {
		return w, err
	}
	path, err := trusted.path(st.Head)
	if err != nil {
		return w, err
	}
	if err := s.along(ctx, &w, path); err != nil {
		return w, err
	}
	if w.base != p {
		return w, errDamaged // something after the trusted commit is trusted now
	}
	return w, nil
}

func (s *Syncer) rebuildApp(a savedApp) (*appUnit, error) {
	u := &appUnit{
		commit: a.Commit, warnings: a.Warnings,
		refusals: a.Refusals, tainted: a.Tainted, files: a.Files, blind: a.Blind, broken: a.Broken,
	}
	if a.Commit.ID == "" {
		return u, nil
	}
	r, objects, err := s.rerender(origin{Commit: a.Commit.ID, App: a.App, Version: a.Version})
	if err != nil {
		return nil, err
	}
	fresh := 0 // members that the accepted version has
	for _, saved := range a.Members {
		from := objects
		if saved.Kept == nil {
			fresh++
		} else if _, from, err = s.rerender(*saved.Kept); err != nil {
			return nil, err
		}
		o, ok := from[saved.Key]
		if !ok || saved.Digest != o.Digest {
			return nil, errDamaged
		}
		object := copyOf(o)
		object.SetUID(saved.UID)
		object.SetGeneration(saved.Generation)
		object.SetCreationTimestamp(saved.Created)
		templates := saved.Templates
		if o.Template != nil && len(templates) > 0 {
			templates[0].Spec = *o.Template
		}
		u.members = append(u.members, member{
			key: saved.Key, digest: o.Digest, spec: o.Spec, kept: saved.Kept,
			object: reconcile.Object{Source: o.Source, Commit: saved.Commit, Object: object, Templates: templates},
		})
	}
	if fresh != len(r.objects) {
		return nil, errDamaged
	}
	u.accepted = r.slim()
	return u, nil
}

// rerender renders a version of an app that was accepted once, with its objects by their keys.
func (s *Syncer) rerender(from origin) (*rendering, map[string]manifest.Object, error) {
	tree, err := s.store.Tree(from.Commit)
	if err != nil {
		return nil, nil, err
	}
	cluster := v1alpha1.Cluster{Spec: v1alpha1.ClusterSpec{Version: from.Version}}
	r, err := render(&s.walker.loader, tree, &cluster, from.App)
	if err != nil {
		return nil, nil, err
	}
	if !r.ok() {
		return nil, nil, errDamaged
	}
	objects := make(map[string]manifest.Object, len(r.objects))
	for _, o := range r.objects {
		objects[objectKey(o.Object)] = o
	}
	return r, objects, nil
}
