package gitsync

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// candidate is an app's version at the commit of a step, which may become the accepted one.
type candidate struct {
	unit    *appUnit // a copy that the step may change
	r       *rendering
	touched bool // whether it renders otherwise, or from other files, than at the commit before
	// reason says why the version is refused; "" when it is accepted.
	reason   string
	stranger string // see Refusal.Stranger
	problems []manifest.Problem
	warnings []manifest.Problem // of the policies
}

func (c *candidate) refuse(reason string, problems []manifest.Problem) {
	if c.reason == "" {
		c.reason = reason
	}
	c.problems = append(c.problems, problems...)
}

// render renders an app at this commit. It returns the app's rendering at the position, or its
// accepted one, when that would come out again.
func (s *step) render(u *appUnit, app v1alpha1.App) (*rendering, error) {
	version := s.next.cluster.spec.Spec.Version
	if r := u.position(); s.prev != nil && r != nil && !r.unreadable && r.app == app && r.version == version && !s.reads(r) {
		return r, nil
	}
	for _, r := range []*rendering{u.at, u.accepted} {
		if r != nil && !r.unreadable && r.app == app && r.version == version && r.trace.Unchanged(s.tree) {
			return r, nil
		}
	}
	return render(&s.loader, s.tree, &s.next.cluster.spec, app)
}

// reads reports whether a rendering looked at a path that the commit changed, or at a folder above
// one. It spares most apps the look-ups in the tree.
func (s *step) reads(r *rendering) bool {
	if s.near == nil {
		s.near = map[string]bool{}
		for p := range s.changed {
			for ; !s.near[p]; p = path.Dir(p) {
				s.near[p] = true
			}
		}
	}
	for p := range r.trace.Paths() {
		if s.near[p] {
			return true
		}
	}
	return false
}

// stay makes r the rendering of the position.
func (u *appUnit) stay(r *rendering) {
	u.at = r
	if r == u.accepted {
		u.at = nil
	}
}

// apps judges every app at a commit of a known signer.
func (s *step) apps(ctx context.Context) error {
	n := s.next
	apps := appsByName(n.cluster.spec.Spec.Apps)
	names := slices.Sorted(maps.Keys(apps))
	candidates := make(map[string]*candidate, len(apps))
	there := map[string]bool{} // the objects of this commit, whichever app has them
	for _, name := range names {
		c, err := s.candidate(apps[name])
		if err != nil {
			return err
		}
		candidates[name] = c
		for k := range c.r.digests {
			there[k] = true
		}
	}
	for _, name := range names {
		if c := candidates[name]; c.r.ok() && c.r != c.unit.accepted {
			s.validate(name, c, there)
		}
	}
	s.settle(names, candidates)
	after := make(map[string]*appUnit, len(apps))
	for _, name := range names {
		c := candidates[name]
		if c.reason == "" {
			if err := s.accept(ctx, c); err != nil {
				return err
			}
		} else {
			c.unit.stay(c.r)
			if c.touched {
				r := s.refuse(name, c.reason, c.unit.commit, c.problems)
				r.Stranger = c.stranger
				c.unit.refusals = withRefusal(c.unit.refusals, r)
			}
		}
		after[name] = c.unit
	}
	// An app that pleach.yaml no longer lists is gone with its objects.
	n.apps = after
	return nil
}

// candidate judges one app by itself.
func (s *step) candidate(app v1alpha1.App) (*candidate, error) {
	u := &appUnit{}
	if old := s.next.apps[app.Name]; old != nil {
		u = old.clone()
	}
	before := u.position()
	r, err := s.render(u, app)
	if err != nil {
		return nil, err
	}
	c := &candidate{unit: u, r: r, touched: r != before}
	if r == u.accepted {
		return c, nil // nothing stands against what is accepted already
	}
	changed := u.clear(before, r)
	if denial := s.judgeApp(c, app.Name, before, changed); denial != "" {
		c.refuse(denial, nil)
	}
	if !r.ok() {
		if c.touched {
			u.broken = append(u.broken, s.actor())
		}
		c.refuse(summary(r.errors), r.errors)
		return c, nil
	}
	u.broken = nil
	if reason, by := u.laundered(r, s.next.tainted); reason != "" {
		if c.reason == "" {
			c.stranger = by
		}
		c.refuse(reason, nil)
	}
	return c, nil
}

// judgeApp asks whether the signer may change the app, and each object that the commit changes. What
// he may not change is marked.
func (s *step) judgeApp(c *candidate, app string, before *rendering, changed []string) (denial string) {
	deny := func(a actor, reason string) {
		if denial == "" {
			denial = fmt.Sprintf("%s %s", a.By, reason)
		}
	}
	u, me := c.unit, s.actor()
	reason := ""
	if c.touched && before != nil { // the app's first version is part of the list of apps
		reason = s.judge.Judge(me.By, Change{Verb: Update, App: app})
	}
	if reason == "" {
		for p := range s.changed {
			delete(u.files, p)
		}
	} else {
		deny(me, reason)
		if u.files == nil {
			u.files = map[string]taint{}
		}
		for p := range c.r.trace.Paths() {
			if base, ok := s.changed[p]; ok {
				mark(u.files, p, base, hash(s.tree, p), me.Commit)
			}
		}
	}
	var was map[string]string
	if before.ok() {
		was = before.digests
	} else if u.accepted != nil {
		was = u.accepted.digests
	}
	for _, a := range append(slices.Clip(u.broken), me) {
		for _, k := range changed {
			reason := s.judge.Judge(a.By, Change{Verb: verb(was, c.r.digests, k), App: app, Object: k})
			if reason != "" {
				deny(a, reason)
				u.taintObject(k, a.Commit)
			}
		}
	}
	return denial
}

// validate holds the app's objects against their accepted versions and against the accepted
// policies, and refuses the app with all that is wrong.
func (s *step) validate(app string, c *candidate, there map[string]bool) {
	var problems []manifest.Problem
	var a admission
	for _, o := range c.r.objects {
		old := s.prev.member(objectKey(o.Object))
		switch {
		case old == nil:
			s.admit(&a, app, o.Object, nil, o.Source)
		case old.digest != o.Digest:
			problems = append(problems, manifest.ValidateUpdate(o.Object, old.object.Object, o.Source)...)
			s.admit(&a, app, o.Object, old.object.Object, o.Source)
		}
	}
	for _, m := range c.unit.members {
		if !there[m.key] {
			s.admit(&a, app, nil, m.object.Object, m.object.Source)
		}
	}
	c.warnings = a.warned
	if problems = append(problems, a.denied...); len(problems) > 0 {
		c.refuse(summary(problems), problems)
	}
	if a.undecided != "" {
		c.refuse(a.undecided, nil)
	}
}

// settle refuses the apps that bring an object which another app has: the app that had it before
// keeps it, and between two new ones the first by name.
func (s *step) settle(names []string, candidates map[string]*candidate) {
	moves := func(name string) bool { c := candidates[name]; return c.reason == "" && c.r != c.unit.accepted }
	for again := slices.ContainsFunc(names, moves); again; {
		again = false
		holders := map[string][]string{} // by key, the apps that would have the object
		for _, name := range names {
			for k := range candidates[name].result() {
				holders[k] = append(holders[k], name)
			}
		}
		for _, name := range names {
			c := candidates[name]
			if !moves(name) {
				continue
			}
			if problems := s.conflicts(c, name, holders); len(problems) > 0 {
				c.refuse(summary(problems), problems)
				again = true
				break // what the app had before counts again
			}
		}
	}
}

// result is what the app has after the step.
func (c *candidate) result() map[string]string {
	switch {
	case c.reason == "":
		return c.r.digests
	case c.unit.accepted != nil:
		return c.unit.accepted.digests
	}
	return nil
}

func (s *step) conflicts(c *candidate, name string, holders map[string][]string) []manifest.Problem {
	var problems []manifest.Problem
	for _, o := range slices.Concat(c.r.objects, c.r.held) {
		k := objectKey(o.Object)
		keeper := name
		if len(holders[k]) > 1 {
			keeper = holders[k][0]
		}
		for _, h := range holders[k] {
			if old := s.prev.apps[h]; old != nil && old.accepted != nil && old.accepted.digests[k] != "" {
				keeper = h
			}
		}
		if keeper == name {
			continue
		}
		problems = append(problems, manifest.Problem{
			App: name, Path: o.Source.Path, Line: o.Source.Line, Object: manifest.Name(o.Object),
			Reason: fmt.Sprintf("is an object of app %q already: remove it from one of the two", keeper),
		})
	}
	return problems
}

// accept makes the candidate the accepted version.
func (s *step) accept(ctx context.Context, c *candidate) error {
	u := c.unit
	if c.r != u.accepted {
		var err error
		if u.members, err = s.members(ctx, c.r); err != nil {
			return err
		}
		u.warnings = append(holding(slices.Clone(c.r.warns), u.members), c.warnings...)
		u.accepted = c.r.slim()
	}
	u.commit = s.at
	u.at, u.refusals, u.tainted, u.files, u.blind, u.broken = nil, nil, nil, nil, "", nil
	return nil
}
