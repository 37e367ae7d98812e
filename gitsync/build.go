package gitsync

import (
	"cmp"
	"maps"
	"slices"

	"github.com/pleachdev/pleach/reconcile"
)

// accepted is what the rest of the agent sees of a position.
func (p *position) accepted() *Accepted {
	a := &Accepted{
		Head:          p.trusted,
		Cluster:       p.cluster.spec,
		ClusterCommit: p.cluster.commit,
		Signers:       p.cluster.signers,
		Nodes:         p.cluster.nodes,
		Refusals:      slices.Concat(p.refused, p.cluster.refusals),
	}
	for _, name := range slices.Sorted(maps.Keys(p.apps)) {
		u := p.apps[name]
		a.Refusals = append(a.Refusals, u.refusals...)
		if u.accepted == nil {
			continue
		}
		app := App{Name: name, Commit: u.commit, Objects: make([]reconcile.Object, len(u.members))}
		for i, m := range u.members {
			app.Objects[i] = m.object
		}
		a.Apps = append(a.Apps, app)
		a.Warnings = append(a.Warnings, u.warnings...)
	}
	slices.SortStableFunc(a.Refusals, func(x, y Refusal) int {
		return cmp.Or(cmp.Compare(x.Commit.Level, y.Commit.Level), cmp.Compare(x.App, y.App))
	})
	return a
}
