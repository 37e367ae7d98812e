package reconcile

import (
	"fmt"
	"slices"
)

// remove stops this node's pods of workloads that the accepted state positively lacks. An app whose
// accepted version is unknown here never empties, and a node that fell behind the commit for which
// a pod was started leaves the pod alone.
func (p *pass) remove() {
	p.findStrays()
	cluster, sure := p.in.Accepted[clusterUnit]
	for _, m := range p.strays {
		accepted, known := p.in.Accepted[m.App]
		switch {
		case known && slices.Contains(p.in.Apps, m.App):
			if accepted.Level >= m.Commit.Level {
				p.stop(m, accepted.ID, fmt.Sprintf("%s %s/%s is not in app %s any more", m.Kind, m.Namespace, m.Owner, m.App))
			}
		case m.App != "" && sure && !slices.Contains(p.in.Apps, m.App) && cluster.Level >= m.Commit.Level:
			p.stop(m, cluster.ID, fmt.Sprintf("app %s is not in pleach.yaml any more", m.App))
		}
	}
}
