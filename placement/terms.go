package placement

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// query selects pods: those that all its terms select.
type query struct {
	id    string
	terms []term
}

// term is a label selector with the namespaces that it looks at.
type term struct {
	names    []string
	spaces   labels.Selector // of namespaces, beside names
	selector labels.Selector
}

func (t *term) matches(p *Planner, c *Constraints) bool {
	return (slices.Contains(t.names, c.Namespace) || t.spaces.Matches(labels.Set(p.namespaces[c.Namespace]))) &&
		t.selector.Matches(labels.Set(c.Labels))
}

func (q *query) matches(p *Planner, c *Constraints) bool {
	for i := range q.terms {
		if !q.terms[i].matches(p, c) {
			return false
		}
	}
	return true
}

// pair returns a label that every pod of the query has, for the index; "" when there is none.
func (q *query) pair() string {
	for i := range q.terms {
		requirements, _ := q.terms[i].selector.Requirements()
		for _, r := range requirements {
			if v := r.ValuesUnsorted(); len(v) == 1 && (r.Operator() == selection.In || r.Operator() == selection.Equals) {
				return r.Key() + "=" + v[0]
			}
		}
	}
	return ""
}

// newQuery makes a query of affinity terms as their owner means them.
func newQuery(c *Constraints, list ...corev1.PodAffinityTerm) *query {
	q := &query{}
	var id []any
	for _, a := range list {
		t := term{names: a.Namespaces, spaces: selectorOf(a.NamespaceSelector)}
		if len(a.Namespaces) == 0 && a.NamespaceSelector == nil {
			t.names = []string{c.Namespace}
		}
		t.selector = selectorOf(a.LabelSelector)
		if a.LabelSelector != nil {
			t.selector = withKeys(t.selector, c.Labels, a.MatchLabelKeys, selection.In)
			t.selector = withKeys(t.selector, c.Labels, a.MismatchLabelKeys, selection.NotIn)
		}
		q.terms = append(q.terms, t)
		id = append(id, t.names, t.spaces.String(), a.NamespaceSelector == nil, t.selector.String(), a.LabelSelector == nil)
	}
	q.id = text(id...)
	return q
}

// spreadQuery selects the pods that a spreading rule counts.
func spreadQuery(c *Constraints, s *corev1.TopologySpreadConstraint) *query {
	return newQuery(c, corev1.PodAffinityTerm{LabelSelector: s.LabelSelector, MatchLabelKeys: s.MatchLabelKeys})
}

// selectorOf parses a selector. One that does not parse was refused by validation; here, as nil, it
// selects nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

// withKeys adds the owner's own values of some labels to a selector.
func withKeys(s labels.Selector, own map[string]string, keys []string, op selection.Operator) labels.Selector {
	for _, k := range keys {
		if v, ok := own[k]; ok {
			if r, err := labels.NewRequirement(k, op, []string{v}); err == nil {
				s = s.Add(*r)
			}
		}
	}
	return s
}
