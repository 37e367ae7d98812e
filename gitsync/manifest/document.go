package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds what the aliases of one document may grow to.
const maxNodes = 1 << 19

// maxDepth bounds how deep lists and objects nest.
const maxDepth = 200

// valueKind is one of JSON's types.
type valueKind int

const (
	nullValue valueKind = iota
	boolValue
	numberValue
	stringValue
	listValue
	objectValue
)

// value is one JSON value that knows where it was written. Scalars are resolved as Kubernetes does,
// by YAML 1.1: a plain yes or on is a boolean and 0644 is octal.
type value struct {
	kind    valueKind
	line    int
	text    string // of a scalar: the string, or JSON's spelling of the number or boolean
	written string // of a scalar: as the file has it
	items   []*value
	members []member // in the order of the file, keys are unique
}

type member struct {
	key   string
	line  int
	value *value
}

func (v *value) get(key string) *value {
	if v == nil {
		return nil
	}
	for _, m := range v.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// str is the text of a string member, "" when it is missing or no string.
func (v *value) str(key string) string {
	if m := v.get(key); m != nil && m.kind == stringValue {
		return m.text
	}
	return ""
}

// String describes the value in an error message.
func (v *value) String() string {
	switch v.kind {
	case nullValue:
		return "null"
	case listValue:
		return "a list"
	case objectValue:
		return "an object"
	case stringValue:
		if len(v.text) > 40 {
			return strconv.Quote(v.text[:40]) + " …"
		}
		return strconv.Quote(v.text)
	default:
		return v.written
	}
}

// appendJSON writes the value as JSON.
func (v *value) appendJSON(b []byte) []byte {
	switch v.kind {
	case nullValue:
		return append(b, "null"...)
	case stringValue:
		s, _ := json.Marshal(v.text) // a string always marshals
		return append(b, s...)
	case listValue:
		b = append(b, '[')
		for i, e := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.appendJSON(b)
		}
		return append(b, ']')
	case objectValue:
		b = append(b, '{')
		for i, m := range v.members {
			if i > 0 {
				b = append(b, ',')
			}
			k, _ := json.Marshal(m.key) // a string always marshals
			b = append(append(b, k...), ':')
			b = m.value.appendJSON(b)
		}
		return append(b, '}')
	default:
		return append(b, v.text...)
	}
}

// parseDocuments splits a YAML or JSON stream. What cannot be parsed becomes a problem, and the
// documents before it are still returned. Documents without content are left out.
func parseDocuments(data []byte) (docs []*value, problems []Problem) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs, problems
		}
		if err != nil {
			return docs, append(problems, syntaxProblem(err))
		}
		e := expander{}
		v := e.expand(&n, 0)
		problems = append(problems, e.problems...)
		if len(e.problems) == 0 && v.kind != nullValue {
			docs = append(docs, v)
		}
	}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func syntaxProblem(err error) Problem {
	p := Problem{Reason: err.Error()}
	if m := yamlLine.FindStringSubmatch(p.Reason); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Reason = p.Reason[len(m[0]):]
	}
	p.Reason = "no YAML: " + p.Reason
	return p
}

// expander turns YAML nodes into values: aliases and merge keys are resolved, and duplicate keys,
// foreign tags and keys that are no scalar are reported.
type expander struct {
	problems []Problem
	nodes    int
	aliases  []*yaml.Node // being expanded
}

func (e *expander) fail(n *yaml.Node, format string, args ...any) *value {
	e.problems = append(e.problems, Problem{Line: n.Line, Reason: fmt.Sprintf(format, args...)})
	return &value{line: n.Line}
}

func (e *expander) expand(n *yaml.Node, depth int) *value {
	if e.nodes++; e.nodes > maxNodes || depth > maxDepth {
		if len(e.problems) > 0 {
			return &value{line: n.Line}
		}
		return e.fail(n, "too large: more than %d values, or nested deeper than %d", maxNodes, maxDepth)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return &value{line: n.Line}
		}
		return e.expand(n.Content[0], depth)
	case yaml.AliasNode:
		if slices.Contains(e.aliases, n.Alias) {
			return e.fail(n, "alias *%s contains itself", n.Value)
		}
		e.aliases = append(e.aliases, n.Alias)
		v := e.expand(n.Alias, depth+1)
		e.aliases = e.aliases[:len(e.aliases)-1]
		return v
	case yaml.SequenceNode:
		v := &value{kind: listValue, line: n.Line, items: make([]*value, 0, len(n.Content))}
		for _, c := range n.Content {
			v.items = append(v.items, e.expand(c, depth+1))
			if e.nodes > maxNodes {
				break
			}
		}
		return v
	case yaml.MappingNode:
		return e.mapping(n, depth)
	case yaml.ScalarNode:
		return e.scalar(n)
	default:
		return &value{line: n.Line}
	}
}

func (e *expander) mapping(n *yaml.Node, depth int) *value {
	v := &value{kind: objectValue, line: n.Line}
	seen := make(map[string]int, len(n.Content)/2) // key to line
	var merged []*value
	for i := 0; i+1 < len(n.Content) && e.nodes <= maxNodes; i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" {
			m := e.expand(c, depth+1)
			switch m.kind {
			case objectValue:
				merged = append(merged, m)
			case listValue:
				merged = append(merged, m.items...)
			default:
				e.fail(k, "a merge key wants an object")
			}
			continue
		}
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			e.fail(k, "a key must be a string")
			continue
		}
		key := e.scalar(k).text
		if first, dup := seen[key]; dup {
			e.fail(k, "key %q is already set on line %d: keep one of them", key, first)
			continue
		}
		seen[key] = k.Line
		v.members = append(v.members, member{key, k.Line, e.expand(c, depth+1)})
	}
	for _, m := range merged {
		for _, mm := range m.members {
			if _, own := seen[mm.key]; !own {
				seen[mm.key] = mm.line
				v.members = append(v.members, mm)
			}
		}
	}
	return v
}

func (e *expander) scalar(n *yaml.Node) *value {
	v := &value{kind: stringValue, line: n.Line, text: n.Value, written: n.Value}
	switch tag := n.ShortTag(); tag {
	case "!!str":
		if n.Style == 0 {
			if b, ok := oldBool(n.Value); ok {
				v.kind, v.text = boolValue, strconv.FormatBool(b)
			}
		}
	case "!!timestamp": // Kubernetes reads it as the string that was written
	case "!!null":
		v.kind, v.text = nullValue, "null"
	case "!!bool":
		v.kind, v.text = boolValue, strings.ToLower(n.Value)
	case "!!int":
		v.kind = numberValue
		plain := strings.ReplaceAll(n.Value, "_", "")
		if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
			v.text = strconv.FormatInt(i, 10)
		} else if u, err := strconv.ParseUint(strings.TrimPrefix(plain, "+"), 0, 64); err == nil {
			v.text = strconv.FormatUint(u, 10)
		} else {
			return e.fail(n, "%s is no whole number of 64 bits", n.Value)
		}
	case "!!float":
		v.kind = numberValue
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return e.fail(n, "%s is no finite number", n.Value)
		}
		text, err := json.Marshal(f)
		if err != nil {
			return e.fail(n, "%s is no finite number", n.Value)
		}
		v.text = string(text)
	default:
		return e.fail(n, "tag %s is not known: leave it out", tag)
	}
	return v
}

// oldBool reads the booleans of YAML 1.1 that YAML 1.2 dropped.
func oldBool(s string) (b, ok bool) {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		return true, true
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

// locate is the line of the field, or of its nearest parent that was written. The path is written
// as in errors of Kubernetes: spec.containers[0].image, metadata.labels[app].
func (v *value) locate(field string) int {
	line, _ := v.find(field)
	return line
}

// find is locate, and says whether the field itself was written.
func (v *value) find(field string) (line int, exact bool) {
	line = v.line
	for field != "" {
		var next *value
		switch v.kind {
		case listValue:
			end := strings.IndexByte(field, ']')
			if field[0] != '[' || end < 0 {
				return line, false
			}
			i, err := strconv.Atoi(field[1:end])
			if err != nil || i < 0 || i >= len(v.items) {
				return line, false
			}
			next, field = v.items[i], field[end+1:]
			line = next.line
		case objectValue:
			// Keys may hold dots and brackets: the longest key that fits is meant.
			best, rest := -1, ""
			for _, m := range v.members {
				if r, ok := cutKey(field, m.key); ok && len(m.key) > best {
					best, rest, next, line = len(m.key), r, m.value, m.line
				}
			}
			if best < 0 {
				return line, false
			}
			field = rest
		default:
			return line, false
		}
		field = strings.TrimPrefix(field, ".")
		v = next
	}
	return line, true
}

// cutKey takes a key from the front of a field path, written as key or as [key].
func cutKey(field, key string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(field, "["+key+"]"); ok {
		return rest, true
	}
	rest, ok = strings.CutPrefix(field, key)
	return rest, ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
