package gitsync

import (
	"slices"

	"github.com/pleachdev/pleach/reconcile"
)

// Vector is the accepted vector: for every unit the commit that it stands at.
func (a *Accepted) Vector() map[string]reconcile.Commit {
	commits := map[string]reconcile.Commit{ClusterUnit: a.ClusterCommit}
	for _, app := range a.Apps {
		commits[app.Name] = app.Commit
	}
	return commits
}

// Objects are those of all apps.
func (a *Accepted) Objects() []reconcile.Object {
	var all []reconcile.Object
	for _, app := range a.Apps {
		all = append(all, app.Objects...)
	}
	return all
}

// AppNames are those that pleach.yaml lists, sorted: only an app that is positively gone from it loses
// its pods.
func (a *Accepted) AppNames() []string {
	names := make([]string, 0, len(a.Cluster.Spec.Apps))
	for _, app := range a.Cluster.Spec.Apps {
		names = append(names, app.Name)
	}
	slices.Sort(names)
	return names
}
