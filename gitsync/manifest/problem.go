package manifest

import "fmt"

// Problem is one finding about a manifest, for a person to mend.
type Problem struct {
	App    string
	Path   string // from the repository's root
	Line   int    // 0 when unknown
	Object string // "apps/v1 Deployment default/web", "" when the file is no object
	Field  string // "spec.template.spec.containers[0].image", "" for the whole object
	Reason string
	// Held is set on a warning about an object that does not run as it is written: its kind or a
	// field that its user relies on is not supported yet.
	Held bool
}

// Error is "file:line: field: reason"; parts that are not known are left out.
func (p Problem) Error() string {
	s := p.Path
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	if p.Field != "" {
		s += ": " + p.Field
	} else if p.Object != "" {
		s += ": " + p.Object
	}
	return s + ": " + p.Reason
}
