package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Error is one reason why the policies cannot be used.
type Error struct {
	Path   string
	Line   int // 0 when unknown
	Reason string
}

// Error is "file:line: reason".
func (e Error) Error() string {
	if e.Line == 0 {
		return e.Path + ": " + e.Reason
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Reason)
}

// unavailable says why a builtin is withheld. All that OPA itself calls nondeterministic are withheld
// too, whether they stand here or not. Calls of print are compiled away.
var unavailable = map[string]string{
	"http.send":               "a policy has no network",
	"net.lookup_ip_addr":      "a policy has no network",
	"json.match_schema":       "a schema may be fetched from the network",
	"json.verify_schema":      "a schema may be fetched from the network",
	"graphql.schema_is_valid": "a schema may be fetched from the network",
	"providers.aws.sign_req":  "a policy has no network to sign requests for",
	"time.now_ns":             "a policy has no clock",
	"time.clock":              "it reads the machine's time zones",
	"time.date":               "it reads the machine's time zones",
	"time.weekday":            "it reads the machine's time zones",
	"time.format":             "it reads the machine's time zones",
	"time.diff":               "it reads the machine's time zones",
	"time.parse_ns":           "it reads the machine's time zones",
	"io.jwt.decode_verify":    "a policy has no clock to check expiry by",
	"io.jwt.encode_sign":      "a policy has no randomness",
	"io.jwt.encode_sign_raw":  "a policy has no randomness",
	"crypto.x509.parse_and_verify_certificates":              "a policy has no clock to check expiry by",
	"crypto.x509.parse_and_verify_certificates_with_options": "a policy has no clock and no certificate store",
	"rand.intn":    "a policy has no randomness",
	"uuid.rfc4122": "a policy has no randomness",
	"opa.runtime":  "a policy sees nothing of the machine",
	"trace":        "a policy has no output but its messages",
}

// capabilities is what a policy may call.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool {
		_, withheld := unavailable[b.Name]
		return withheld || b.Nondeterministic
	})
	c.AllowNet = []string{}
	return c
}

// Prepare compiles policies, by their path. Files named *_test.rego are left out. All errors are
// returned at once, sorted by file and line; the set is nil when there are any. Without a rule the set
// allows everything.
func Prepare(files map[string][]byte) (*Set, []Error) {
	p := preparer{modules: map[string]*ast.Module{}}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(path, ".rego") && !strings.HasSuffix(path, "_test.rego") {
			p.parse(path, files[path])
		}
	}
	if len(p.errs) > 0 {
		return nil, p.sorted()
	}
	c := ast.NewCompiler().WithCapabilities(p.capabilities()).SetErrorLimit(0)
	if c.Compile(p.modules); c.Failed() {
		p.add("", c.Errors)
		return nil, p.sorted()
	}
	s := &Set{}
	for name, query := range map[string]**rego.PreparedEvalQuery{"deny": &s.deny, "warn": &s.warn} {
		if p.rules[name] == 0 {
			continue
		}
		q, err := rego.New(rego.Compiler(c), rego.Query("data."+Package+"."+name)).PrepareForEval(context.Background())
		if err != nil {
			p.errs = append(p.errs, Error{Path: "policies", Reason: err.Error()})
			return nil, p.sorted()
		}
		*query = &q
	}
	return s, nil
}

type preparer struct {
	modules map[string]*ast.Module
	rules   map[string]int // how many rules are named deny and warn
	caps    *ast.Capabilities
	errs    []Error
}

func (p *preparer) capabilities() *ast.Capabilities {
	if p.caps == nil {
		p.caps = capabilities()
	}
	return p.caps
}

// parse adds a file. The rules deny and warn are made to say [file, line, message], since a set does
// not tell which of its rules put a member into it.
func (p *preparer) parse(path string, src []byte) {
	m, err := ast.ParseModuleWithOpts(path, string(src), ast.ParserOptions{Capabilities: p.capabilities(), RegoVersion: ast.RegoV1})
	if err != nil {
		p.add(path, err)
		return
	}
	p.modules[path] = m
	ours := m.Package.Path.String() == "data."+Package
	for _, r := range m.Rules {
		name := string(r.Head.Name)
		if ref := r.Head.Ref(); len(ref) > 0 {
			name = strings.Trim(ref[0].String(), `"`)
		}
		if name != "deny" && name != "warn" {
			continue
		}
		line := r.Location.Row
		switch {
		case !ours:
			p.errs = append(p.errs, Error{path, line, fmt.Sprintf("%s is asked in package %s only: move the rule there or give it another name", name, Package)})
			continue
		case r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1:
			p.errs = append(p.errs, Error{path, line, fmt.Sprintf("want a set of messages: write %s contains msg if { … }", name)})
			continue
		}
		r.Head.Key = ast.ArrayTerm(ast.StringTerm(path), ast.IntNumberTerm(line), r.Head.Key)
		if p.rules == nil {
			p.rules = map[string]int{}
		}
		p.rules[name]++
	}
}

// add takes over OPA's errors.
func (p *preparer) add(path string, err error) {
	list, ok := errors.AsType[ast.Errors](err)
	if one, single := errors.AsType[*ast.Error](err); single {
		list, ok = ast.Errors{one}, true
	}
	if !ok {
		p.errs = append(p.errs, Error{Path: path, Reason: err.Error()})
		return
	}
	for _, e := range list {
		out := Error{Path: path, Reason: e.Message}
		if e.Location != nil {
			out.Path, out.Line = e.Location.File, e.Location.Row
		}
		if name, ok := strings.CutPrefix(e.Message, "undefined function "); ok {
			if why, known := unavailable[name]; known {
				out.Reason = name + " is not available: " + why
			}
		}
		if name, ok := strings.CutSuffix(e.Message, " is unsafe"); ok { // OPA's word for it
			out.Reason = strings.TrimPrefix(name, "var ") + " has no value here: is the name right, and is it imported or given one outside of \"not\"?"
		}
		p.errs = append(p.errs, out)
	}
}

func (p *preparer) sorted() []Error {
	slices.SortFunc(p.errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.CompactFunc(p.errs, func(a, b Error) bool { return a == b })
}
