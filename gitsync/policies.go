package gitsync

import (
	"fmt"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/policy"
	"github.com/pleachdev/pleach/reconcile"
)

// preparePolicies compiles the rules of policies/.
func preparePolicies(files map[string][]byte) (*policy.Set, []manifest.Problem) {
	set, errs := policy.Prepare(files)
	problems := make([]manifest.Problem, len(errs))
	for i, e := range errs {
		problems[i] = manifest.Problem{Path: e.Path, Line: e.Line, Reason: e.Reason}
	}
	return set, problems
}

// admission is what the accepted policies say of an app's changes.
type admission struct {
	denied, warned []manifest.Problem
	undecided      string
}

// admit asks the accepted policies about one object. Either of old and o is nil for an object that
// comes or goes; src is where the newer of the two stands.
func (s *step) admit(a *admission, app string, o, old reconcile.K8sObject, src reconcile.Source) {
	if a.undecided != "" {
		return // each further one could take as long
	}
	in := policy.Input{
		Operation: policy.Update, App: app, Commit: s.at.ID,
		Signers: s.signer.Principals, Cluster: s.prev.cluster.spec.Name,
	}
	name := o
	switch {
	case o == nil:
		in.Operation, in.OldObject, name = policy.Delete, old, old
	case old == nil:
		in.Operation, in.Object = policy.Create, o
	default:
		in.Object, in.OldObject = o, old
	}
	problem := func(m policy.Message) manifest.Problem {
		return manifest.Problem{
			App: app, Path: src.Path, Line: src.Line, Object: manifest.Name(name), Field: m.Field,
			Reason: fmt.Sprintf("%s (%s:%d)", m.Text, m.Path, m.Line),
		}
	}
	v := s.prev.cluster.policies.Eval(in)
	for _, m := range v.Denied {
		a.denied = append(a.denied, problem(m))
	}
	for _, m := range v.Warnings {
		a.warned = append(a.warned, problem(m))
	}
	if v.Undecided != "" && a.undecided == "" {
		a.undecided = fmt.Sprintf("the policies come to no verdict on %s: %s", manifest.Name(name), v.Undecided)
	}
}
