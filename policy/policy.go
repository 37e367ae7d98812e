// Package policy decides by the Rego rules of the config repository whether an object may be
// created, changed or deleted.
//
// It is pure: OPA evaluates in memory, and what would read a clock, the network, randomness or the
// machine is not there for a policy to call. An evaluation is bounded by counted steps and not by
// time, so that every node comes to the same verdict.
//
// The rules are partial sets named deny and warn in the package pleach.admission:
//
//	package pleach.admission
//
//	deny contains msg if {
//		input.object.kind == "Deployment"
//		some c in input.object.spec.template.spec.containers
//		endswith(c.image, ":latest")
//		msg := {"msg": sprintf("container %s has no fixed image", [c.name]), "field": "spec.template.spec.containers"}
//	}
//
// A message is a string, or an object with msg and field. Rules may use functions and rules of other
// files and packages, but not deny and warn themselves. As everywhere in Rego, a rule in which a
// function fails (count(null), to_number("x")) is undefined and says nothing.
package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Package is the Rego package whose deny and warn are asked.
const Package = "pleach.admission"

// MaxSteps bounds one evaluation, in steps of OPA's evaluator: about a second.
const MaxSteps = 2_000_000

// Operation is what a commit does to an object.
type Operation string

// The operations, as admission in Kubernetes names them.
const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
	Delete Operation = "DELETE"
)

// Input is what a policy sees as input.
type Input struct {
	Operation Operation `json:"operation"`
	Object    any       `json:"object"`    // as JSON has it; nil for Delete
	OldObject any       `json:"oldObject"` // nil for Create
	App       string    `json:"app"`
	Commit    string    `json:"commit"`  // full hex object id
	Signers   []string  `json:"signers"` // principals of trust/allowed_signers
	Cluster   string    `json:"cluster"` // name of the cluster
}

// Message is what one rule said.
type Message struct {
	Path  string // of the policy file
	Line  int    // of the rule
	Text  string
	Field string // "" when the rule named none
}

// String is "file:line: field: text".
func (m Message) String() string {
	s := fmt.Sprintf("%s:%d: ", m.Path, m.Line)
	if m.Field != "" {
		s += m.Field + ": "
	}
	return s + m.Text
}

// Verdict is the outcome of one evaluation; both lists are sorted by file, line, field and text.
type Verdict struct {
	Denied   []Message // why the object is refused; empty when no rule denied
	Warnings []Message
	// Undecided says why there is no verdict: the rules ran out of steps or contradict themselves.
	// It is no refusal: the caller retries with the next commit and raises an alarm meanwhile.
	Undecided string
}

// Allowed says that the rules came to an end and none denied.
func (v Verdict) Allowed() bool { return v.Undecided == "" && len(v.Denied) == 0 }

// Set is a compiled set of policies. It may be used by several goroutines.
type Set struct {
	deny, warn *rego.PreparedEvalQuery // nil when no rule has the name
}

// Eval asks all rules about one object.
func (s *Set) Eval(in Input) Verdict { return s.eval(in, &budget{left: MaxSteps}) }

func (s *Set) eval(in Input, steps *budget) Verdict {
	var v Verdict
	if s.deny == nil && s.warn == nil {
		return v
	}
	if in.Signers == nil {
		in.Signers = []string{} // count(null) is undefined, and a rule that asks it would never deny
	}
	value, err := ast.InterfaceToValue(in)
	if err != nil {
		v.Undecided = fmt.Sprintf("input: %v", err)
		return v
	}
	undecided := func(err error) string {
		if steps.left < 0 {
			return fmt.Sprintf("the rules need more than %d steps", MaxSteps)
		}
		return err.Error()
	}
	if v.Denied, err = ask(s.deny, value, steps); err != nil {
		return Verdict{Undecided: undecided(err)}
	}
	// A denial stands even if the rules of warn come to no end.
	if v.Warnings, err = ask(s.warn, value, steps); err != nil && len(v.Denied) == 0 {
		return Verdict{Undecided: undecided(err)}
	}
	return v
}

// budget ends an evaluation after a number of steps. OPA asks Cancelled at every step, which makes the
// count, unlike a time-out, the same on every node.
type budget struct{ left int }

func (b *budget) Cancel() { b.left = -1 }

func (b *budget) Cancelled() bool {
	if b.left >= 0 {
		b.left--
	}
	return b.left < 0
}

// noRandomness stands in for the seed that no policy can reach.
type noRandomness struct{}

func (noRandomness) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func ask(q *rego.PreparedEvalQuery, input ast.Value, steps *budget) ([]Message, error) {
	if q == nil {
		return nil, nil
	}
	results, err := q.Eval(context.Background(), rego.EvalParsedInput(input), rego.EvalExternalCancel(steps),
		rego.EvalTime(time.Unix(0, 0)), rego.EvalSeed(noRandomness{}))
	if err != nil {
		return nil, err
	}
	var messages []Message
	for _, r := range results {
		for _, e := range r.Expressions {
			set, ok := e.Value.([]any)
			if !ok {
				return nil, fmt.Errorf("%s: want a set, got %T", e.Text, e.Value)
			}
			for _, m := range set {
				messages = append(messages, message(m))
			}
		}
	}
	slices.SortFunc(messages, func(a, b Message) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Text, b.Text))
	})
	return messages, nil
}

// message reads [file, line, what the rule said], as Prepare rewrote the rules to say it.
func message(v any) Message {
	parts, _ := v.([]any) // Prepare gave the rule three parts
	if len(parts) != 3 {
		return Message{Text: text(v)}
	}
	m := Message{Path: text(parts[0])}
	if n, ok := parts[1].(json.Number); ok {
		line, _ := n.Int64() // it was an int in Prepare
		m.Line = int(line)
	}
	if o, ok := parts[2].(map[string]any); ok && o["msg"] != nil {
		m.Text = text(o["msg"])
		if o["field"] != nil {
			m.Field = text(o["field"])
		}
		return m
	}
	m.Text = text(parts[2])
	return m
}

// text is a string itself, and the JSON of anything else: a message of the wrong type still denies.
func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	j, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(j)
}
