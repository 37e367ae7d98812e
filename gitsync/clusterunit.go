package gitsync

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// loadCluster reads the cluster's own files; what is wrong with them comes back as problems.
func loadCluster(t *gitstore.Tree) (*clusterUnit, []manifest.Problem, error) {
	tree := &wholeTree{Tree: t}
	c, problems := manifest.LoadCluster(tree)
	if tree.lost != nil {
		return nil, nil, tree.lost
	}
	if len(problems) > 0 {
		return nil, inUnit(ClusterUnit, problems), nil
	}
	u := &clusterUnit{spec: c.Spec, nodes: c.Nodes}
	var err error
	if u.signers, err = trust.ParseAllowedSigners(manifest.SignersFile, c.Signers); err != nil {
		problems = append(problems, lineProblems(err)...)
	} else if u.signers = u.signers.WithNodes(nodeKeys(c.Nodes)); !u.signers.AnyPerson() {
		problems = append(problems, manifest.Problem{
			Path:   manifest.SignersFile,
			Reason: "names nobody who may sign for git: no later commit could be accepted",
		})
	}
	var bad []manifest.Problem
	u.policies, bad = preparePolicies(c.Policies)
	return u, inUnit(ClusterUnit, append(problems, bad...)), nil
}

// nodeKeys are the public keys of each node. The loader has read them before.
func nodeKeys(nodes []*corev1.Node) map[string][]ssh.PublicKey {
	all := map[string][]ssh.PublicKey{}
	for _, n := range nodes {
		if keys, err := trust.ParseNodeKeys(n.Annotations[v1alpha1.NodeKeyAnnotation]); err == nil {
			all[n.Name] = keys
		}
	}
	return all
}

func inUnit(unit string, problems []manifest.Problem) []manifest.Problem {
	for i := range problems {
		problems[i].App = unit
	}
	return problems
}

// lineProblems takes a joined error of the signers file apart.
func lineProblems(err error) []manifest.Problem {
	if line, ok := errors.AsType[*trust.LineError](err); ok {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			var problems []manifest.Problem
			for _, e := range many.Unwrap() {
				problems = append(problems, lineProblems(e)...)
			}
			return problems
		}
		return []manifest.Problem{{Path: line.Path, Line: line.Line, Reason: line.Reason}}
	}
	return []manifest.Problem{{Path: manifest.SignersFile, Reason: err.Error()}}
}

// judgeCluster asks whether the signer may make the commit's changes of the cluster's own files. It
// returns the paths that he may not change, and the first denial.
func (s *step) judgeCluster(files map[string]string) (denied map[string]bool, denial string) {
	was := s.prev.cluster.at
	if was == nil {
		was = s.prev.cluster.files
	}
	denied = map[string]bool{}
	for _, p := range differing(was, files) {
		for _, a := range append(slices.Clip(s.prev.silent), s.actor()) {
			reason := s.judge.Judge(a.By, Change{Verb: verb(was, files, p), App: ClusterUnit, Object: p})
			if reason == "" {
				continue
			}
			denied[p] = true
			if denial == "" {
				denial = fmt.Sprintf("%s %s", a.By, reason)
			}
		}
	}
	return denied, denial
}

func verb(was, now map[string]string, key string) Verb {
	if _, ok := was[key]; !ok {
		return Create
	}
	if _, ok := now[key]; !ok {
		return Delete
	}
	return Update
}

// cluster judges the cluster's own files at a commit of a known signer.
func (s *step) cluster(files map[string]string, denial string) error {
	n, old := s.next, s.prev.cluster
	if maps.Equal(files, old.files) {
		c := *old
		c.commit, c.at, c.refusals = s.at, old.files, nil
		n.cluster = &c
		return nil
	}
	if denial != "" {
		s.keepCluster(files, s.refuse(ClusterUnit, denial, old.commit, nil))
		return nil
	}
	for _, p := range differing(old.files, files) {
		if mark, ok := n.tainted[p]; ok {
			r := s.refuse(ClusterUnit, asLeft(p, mark.By), old.commit, nil)
			r.Stranger = mark.By
			s.keepCluster(files, r)
			return nil
		}
	}
	c, problems, err := loadCluster(s.tree)
	if err != nil {
		return err
	}
	if len(problems) == 0 && c.spec.Name != old.spec.Name {
		problems = []manifest.Problem{{
			App: ClusterUnit, Path: v1alpha1.ClusterFile, Field: "metadata.name",
			Reason: fmt.Sprintf("is %q for the cluster's whole life, got %q", old.spec.Name, c.spec.Name),
		}}
	}
	if len(problems) > 0 {
		s.keepCluster(files, s.refuse(ClusterUnit, summary(problems), old.commit, problems))
		return nil
	}
	if denial := s.judgeApps(old.spec.Spec.Apps, c.spec.Spec.Apps); denial != "" {
		if base, ok := s.changed[v1alpha1.ClusterFile]; ok {
			n.mark(v1alpha1.ClusterFile, base, files[v1alpha1.ClusterFile], s.at.ID)
		}
		s.keepCluster(files, s.refuse(ClusterUnit, denial, old.commit, nil))
		return nil
	}
	c.commit, c.files, c.at = s.at, files, files
	n.cluster = c
	return nil
}

// keepCluster leaves the cluster's own files at their accepted version.
func (s *step) keepCluster(files map[string]string, r Refusal) {
	old := s.prev.cluster
	c := *old
	if !maps.Equal(files, old.at) { // else it is known already
		c.refusals = withRefusal(c.refusals, r)
	}
	c.at = files
	s.next.cluster = &c
}

// departed is what the policies say of the objects that go because pleach.yaml no longer lists their
// app, and no other app has them.
func (s *step) departed() admission {
	var a admission
	for _, name := range slices.Sorted(maps.Keys(s.prev.apps)) {
		if s.next.apps[name] != nil {
			continue
		}
		for _, m := range s.prev.apps[name].members {
			if s.next.member(m.key) == nil {
				s.admit(&a, name, nil, m.object.Object, m.object.Source)
			}
		}
	}
	return a
}

// judgeApps asks whether the signer may make the changes in the list of apps.
func (s *step) judgeApps(was, now []v1alpha1.App) string {
	before, after := appsByName(was), appsByName(now)
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		v := Update
		if _, ok := before[name]; !ok {
			v = Create
		} else if _, ok := after[name]; !ok {
			v = Delete
		}
		if before[name] == after[name] {
			continue
		}
		for _, a := range append(slices.Clip(s.prev.silent), s.actor()) {
			if reason := s.judge.Judge(a.By, Change{Verb: v, App: name}); reason != "" {
				return fmt.Sprintf("%s %s", a.By, reason)
			}
		}
	}
	return ""
}

func appsByName(apps []v1alpha1.App) map[string]v1alpha1.App {
	m := make(map[string]v1alpha1.App, len(apps))
	for _, a := range apps {
		m[a.Name] = a
	}
	return m
}

// summary is the reason of a refusal with problems.
func summary(problems []manifest.Problem) string {
	if len(problems) == 1 {
		return problems[0].Error()
	}
	return fmt.Sprintf("%s, and %d more", problems[0].Error(), len(problems)-1)
}
