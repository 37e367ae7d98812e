package repository

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

// errByHand is the error for a file that is written in a way that cannot be changed in place.
var errByHand = errors.New("cannot be changed without writing the whole file anew, comments and order included")

// editNode changes the text of a Node's file so that it says what change makes of the Node, and
// touches only the lines that must differ. text does the edit; whether it was right is judged by
// reading the result.
func editNode(data []byte, change func(*corev1.Node), text func(*manifestText)) ([]byte, error) {
	want := &corev1.Node{}
	if err := yaml.Unmarshal(data, want); err != nil {
		return nil, err
	}
	before := want.DeepCopy()
	change(want)
	if equality.Semantic.DeepEqual(before, want) {
		return data, nil
	}
	f, err := readText(data)
	if err != nil {
		return nil, err
	}
	text(f)
	out := []byte(strings.Join(f.lines, ""))
	got := &corev1.Node{}
	if err := yaml.Unmarshal(out, got); err != nil || !equality.Semantic.DeepEqual(got, want) {
		return nil, errByHand
	}
	return out, nil
}

// manifestText is a YAML file of one document, as lines and as what they mean. After one edit the
// positions no longer hold: see reread.
type manifestText struct {
	lines []string // with their newlines
	root  *yamlv3.Node
}

func readText(data []byte) (*manifestText, error) {
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(slices.Clone(data), '\n')
	}
	var doc yamlv3.Node
	if err := yamlv3.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yamlv3.MappingNode {
		return nil, errors.New("holds no object")
	}
	return &manifestText{lines: slices.Collect(strings.Lines(string(data))), root: doc.Content[0]}, nil
}

// reread takes the positions again. What cannot be read any more is left to editNode to find.
func (f *manifestText) reread() {
	if again, err := readText([]byte(strings.Join(f.lines, ""))); err == nil {
		*f = *again
	}
}

// place is an entry of a mapping, or an item of a sequence: lines from to end-1, counted from 0.
type place struct {
	key, value *yamlv3.Node // no key for an item
	from, end  int
}

// find returns the entry at a path of keys; nil when it is not there.
func (f *manifestText) find(path ...string) *place {
	p := &place{value: f.root, from: f.root.Line - 1, end: len(f.lines)}
	for _, name := range path {
		if p = f.entry(p, name); p == nil {
			return nil
		}
	}
	return p
}

func (f *manifestText) entry(in *place, name string) *place {
	if in.value.Kind != yamlv3.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(in.value.Content); i += 2 {
		if in.value.Content[i].Value != name {
			continue
		}
		p := &place{key: in.value.Content[i], value: in.value.Content[i+1], from: in.value.Content[i].Line - 1, end: in.end}
		if i+2 < len(in.value.Content) {
			p.end = in.value.Content[i+2].Line - 1
		}
		return f.trimmed(p)
	}
	return nil
}

// item returns the i-th item of a sequence.
func (f *manifestText) item(in *place, i int) *place {
	p := &place{value: in.value.Content[i], from: in.value.Content[i].Line - 1, end: in.end}
	if i+1 < len(in.value.Content) {
		p.end = in.value.Content[i+1].Line - 1
	}
	return f.trimmed(p)
}

// trimmed leaves the comments and blank lines before the next entry to that one.
func (f *manifestText) trimmed(p *place) *place {
	for p.end > p.from+1 {
		if text := strings.TrimSpace(f.lines[p.end-1]); text != "" && text[0] != '#' {
			break
		}
		p.end--
	}
	return p
}

func (f *manifestText) remove(p *place) { f.lines = slices.Delete(f.lines, p.from, p.end) }

func (f *manifestText) insert(at int, lines ...string) {
	f.lines = slices.Insert(f.lines, at, lines...)
}

// set gives an entry of a mapping in block style a one-line value.
func (f *manifestText) set(value string, path ...string) {
	if p := f.find(path...); p != nil {
		old := f.lines[p.from]
		head := old[:min(len(old), p.key.Column-1)]
		tail := "\n"
		if c := p.value.LineComment; c != "" {
			tail = " " + c + tail
		}
		f.lines = slices.Replace(f.lines, p.from, p.end, fmt.Sprintf("%s%s: %s%s", head, p.key.Value, value, tail))
		return
	}
	parent := f.find(path[:len(path)-1]...)
	if parent == nil || len(parent.value.Content) == 0 || parent.value.Style&yamlv3.FlowStyle != 0 {
		return
	}
	indent := strings.Repeat(" ", parent.value.Content[0].Column-1)
	f.insert(parent.end, fmt.Sprintf("%s%s: %s\n", indent, path[len(path)-1], value))
}

// The two edits of a Node's scheduling.

func (f *manifestText) cordon(on bool) {
	if on {
		f.set("true", "spec", "unschedulable")
	} else if p := f.find("spec", "unschedulable"); p != nil {
		f.remove(p)
	}
	f.reread()
}

func (f *manifestText) taint(on bool, t corev1.Taint) {
	defer f.reread()
	taints := f.find("spec", "taints")
	if !on {
		for i := range len(taints.items()) {
			var has corev1.Taint
			if taints.value.Content[i].Decode(&has) != nil || has.Key != t.Key || has.Effect != t.Effect {
				continue
			}
			if len(taints.value.Content) == 1 {
				f.remove(taints)
			} else {
				f.remove(f.item(taints, i))
			}
			return
		}
		return
	}
	lines := func(indent string) []string {
		return []string{indent + "- key: " + t.Key + "\n", indent + "  effect: " + string(t.Effect) + "\n"}
	}
	if items := taints.items(); len(items) > 0 && taints.value.Style&yamlv3.FlowStyle == 0 {
		first := f.lines[items[0].Line-1]
		f.insert(items[0].Line-1, lines(first[:len(first)-len(strings.TrimLeft(first, " "))])...)
		return
	}
	if taints != nil { // an empty list, or one in flow style that editNode will refuse
		f.remove(taints)
		f.reread()
	}
	spec := f.find("spec")
	if spec == nil || len(spec.value.Content) == 0 {
		return
	}
	indent := strings.Repeat(" ", spec.value.Content[0].Column-1)
	f.insert(spec.end, append([]string{indent + "taints:\n"}, lines(indent)...)...)
}

func (p *place) items() []*yamlv3.Node {
	if p == nil || p.value.Kind != yamlv3.SequenceNode {
		return nil
	}
	return p.value.Content
}
