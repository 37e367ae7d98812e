package manifest

import (
	"cmp"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// building is held while kustomize runs, since it keeps its OpenAPI schema in a global variable.
var building sync.Mutex

// kustomizationIn names the kustomization file of a folder, "" when there is none.
func kustomizationIn(r *reader, dir string) (string, error) {
	var found string
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		kind, err := r.kind(path.Join(dir, name))
		switch {
		case err != nil:
			return "", err
		case kind != foundFile:
		case found != "":
			return "", fmt.Errorf("both %s and %s are there: keep one of them", found, name)
		default:
			found = name
		}
	}
	return found, nil
}

// kustomize renders the kustomization of a folder and adds its objects.
func (a *assembly) kustomize(r *reader, dir, name string) {
	tree := &kustomizeTree{r: r, root: path.Join(dir, name)}
	objects, err := tree.build(dir)
	a.errors = append(a.errors, tree.problems...)
	if len(tree.problems) > 0 {
		return // what kustomize says of a file that was refused only repeats it
	}
	if err != nil {
		a.errors = append(a.errors, Problem{Path: tree.root, Reason: "kustomize: " + err.Error()})
		return
	}
	if len(objects) > MaxObjects {
		a.errors = append(a.errors, Problem{Path: tree.root, Reason: tooMany})
		return
	}
	origins := map[string][]*value{}
	for _, o := range objects {
		file := tree.root
		if origin, err := o.GetOrigin(); err == nil && origin != nil {
			if p, err := within(dir, cmp.Or(origin.Path, origin.ConfiguredIn, name)); err == nil {
				file = p
			}
		}
		if !tree.keepOrigin {
			if err := o.SetOrigin(nil); err != nil {
				a.errors = append(a.errors, Problem{Path: file, Reason: err.Error()})
				continue
			}
		}
		data, err := o.MarshalJSON()
		if err != nil {
			a.errors = append(a.errors, Problem{Path: file, Reason: err.Error()})
			continue
		}
		if _, seen := origins[file]; !seen {
			if text, err := r.readFile(file); err == nil {
				origins[file], _ = parseDocuments(text) // kustomize has parsed it before
			}
		}
		a.add(file, a.loader.decode(data, a.namespace), originDocument(origins[file], o))
	}
}

// originDocument is the document of its file that a rendered object was made of. When none fits, as for
// a generator, it is an empty one on the first line. kustomize may have added to the name.
func originDocument(docs []*value, o *resource.Resource) *value {
	best := &value{line: 1}
	found := false
	for _, d := range docs {
		name := d.get("metadata").str("name")
		switch {
		case d.str("kind") != o.GetKind() || name == "":
		case name == o.GetName():
			return d
		case !found && strings.Contains(o.GetName(), name):
			best, found = d, true
		}
	}
	return best
}

// build runs kustomize on a folder of the tree, without plugins and without a network.
// A panic in it is an error: kustomize is made to crash alone, and here it would stop every node.
func (t *kustomizeTree) build(dir string) (objects []*resource.Resource, err error) {
	building.Lock()
	defer building.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	opts := krusty.MakeDefaultOptions()
	opts.Reorder = krusty.ReorderOptionUnspecified
	opts.PluginConfig = types.DisabledPluginConfig()
	opts.LoadRestrictions = types.LoadRestrictionsNone // the tree itself ends at the repository's root
	m, err := krusty.MakeKustomizer(opts).Run(t, "/"+dir)
	if err != nil {
		return nil, err
	}
	return m.Resources(), nil
}

// checked reads a kustomization file before kustomize sees it: kustomize would fetch what is remote and
// run what is executable.
func (t *kustomizeTree) checked(file string) ([]byte, error) {
	data, err := t.r.readFile(file)
	if err != nil {
		return nil, err
	}
	c := kustomizationCheck{r: t.r, file: file, dir: path.Dir(file)}
	k := c.check(data)
	if len(c.problems) > 0 {
		t.problems = append(t.problems, c.problems...)
		return nil, fmt.Errorf("%s was refused", file)
	}
	if file != t.root {
		return data, nil
	}
	// kustomize says where objects come from when the topmost file asks for it.
	t.keepOrigin = slices.Contains(k.BuildMetadata, types.OriginAnnotations)
	if t.keepOrigin {
		return data, nil
	}
	var fields map[string]any
	if err := yaml.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	fields["buildMetadata"] = append(slices.Clone(k.BuildMetadata), types.OriginAnnotations)
	return yaml.Marshal(fields)
}

type kustomizationCheck struct {
	r         *reader
	file, dir string
	doc       *value
	problems  []Problem
}

func (c *kustomizationCheck) fail(field, format string, args ...any) {
	p := Problem{Path: c.file, Field: field, Reason: fmt.Sprintf(format, args...)}
	if c.doc != nil {
		p.Line = c.doc.locate(field)
	}
	c.problems = append(c.problems, p)
}

func (c *kustomizationCheck) check(data []byte) *types.Kustomization {
	docs, problems := parseDocuments(data)
	for _, p := range problems {
		p.Path = c.file
		c.problems = append(c.problems, p)
	}
	k := &types.Kustomization{}
	if len(problems) > 0 {
		return k
	}
	if len(docs) != 1 {
		c.fail("", "want one kustomization, got %d documents", len(docs))
		return k
	}
	c.doc = docs[0]
	for _, p := range checkShape(reflect.TypeFor[types.Kustomization](), c.doc) {
		p.Path = c.file
		c.problems = append(c.problems, p)
	}
	if len(c.problems) > 0 {
		return k
	}
	if err := k.Unmarshal(data); err != nil {
		c.fail("", "%v", err)
		return k
	}
	c.refusePlugins(k)
	if i := slices.Index(k.BuildMetadata, types.ManagedByLabelOption); i >= 0 {
		c.fail(fmt.Sprintf("buildMetadata[%d]", i), "the label would name the version of kustomize in the agent, and every node must render the same: leave it out")
	}
	//nolint:staticcheck // what is deprecated still reads files
	for field, refs := range map[string][]string{"resources": k.Resources, "bases": k.Bases, "components": k.Components} {
		for i, ref := range refs {
			c.local(fmt.Sprintf("%s[%d]", field, i), ref)
		}
	}
	c.files(k)
	return k
}

// refusePlugins names what would run a program or load a chart.
func (c *kustomizationCheck) refusePlugins(k *types.Kustomization) {
	for field, n := range map[string]int{"generators": len(k.Generators), "transformers": len(k.Transformers), "validators": len(k.Validators)} {
		if n > 0 {
			c.fail(field, "plugins are refused, since every node must render the same: use the fields of the kustomization itself (configMapGenerator, patches, replacements …)")
		}
	}
	for field, n := range map[string]int{"helmCharts": len(k.HelmCharts), "helmChartInflationGenerator": len(k.HelmChartInflationGenerator)} {
		if n > 0 {
			c.fail(field, "charts are not inflated here: commit the output of helm template as a resource")
		}
	}
}

// files checks every field that names a file to read.
func (c *kustomizationCheck) files(k *types.Kustomization) {
	for field, refs := range map[string][]string{"configurations": k.Configurations, "crds": k.Crds} {
		for i, ref := range refs {
			c.local(fmt.Sprintf("%s[%d]", field, i), ref)
		}
	}
	//nolint:staticcheck // what is deprecated still reads files
	for field, patches := range map[string][]types.Patch{"patches": k.Patches, "patchesJson6902": k.PatchesJson6902} {
		for i, p := range patches {
			if p.Path != "" {
				c.local(fmt.Sprintf("%s[%d].path", field, i), p.Path)
			}
		}
	}
	for i, p := range k.PatchesStrategicMerge { //nolint:staticcheck // what is deprecated still reads files
		if !strings.ContainsAny(string(p), "\n:") || remote(string(p)) {
			c.local(fmt.Sprintf("patchesStrategicMerge[%d]", i), string(p))
		}
	}
	for i, r := range k.Replacements {
		if r.Path != "" {
			c.local(fmt.Sprintf("replacements[%d].path", i), r.Path)
		}
	}
	if p := k.OpenAPI["path"]; p != "" {
		c.local("openapi.path", p)
	}
	for i, g := range k.ConfigMapGenerator {
		c.sources(fmt.Sprintf("configMapGenerator[%d]", i), g.KvPairSources)
	}
	for i, g := range k.SecretGenerator {
		c.sources(fmt.Sprintf("secretGenerator[%d]", i), g.KvPairSources)
	}
}

func (c *kustomizationCheck) sources(at string, s types.KvPairSources) {
	for i, f := range s.FileSources {
		if _, file, named := strings.Cut(f, "="); named {
			f = file
		}
		c.local(fmt.Sprintf("%s.files[%d]", at, i), f)
	}
	for i, f := range s.EnvSources {
		c.local(fmt.Sprintf("%s.envs[%d]", at, i), f)
	}
	if s.EnvSource != "" {
		c.local(at+".env", s.EnvSource)
	}
}

// local refuses what is not a file or folder of the repository.
func (c *kustomizationCheck) local(field, ref string) {
	if remote(ref) {
		c.fail(field, "%q is remote, and every node must render the same without a network: copy it into the repository and name the copy", ref)
		return
	}
	p, err := within(c.dir, ref)
	if err != nil {
		c.fail(field, "%v", err)
		return
	}
	kind, err := c.r.kind(p)
	switch {
	case err != nil:
		c.fail(field, "%s: %v", p, err)
	case kind == foundNothing:
		c.fail(field, "no such file or folder in the repository: %s", p)
	}
}

var remoteUser = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)

// remote says whether kustomize might take a reference for a URL or a git repository.
func remote(ref string) bool {
	ref = strings.ToLower(ref)
	return strings.Contains(ref, "://") || strings.HasPrefix(ref, "http:") || strings.HasPrefix(ref, "https:") ||
		strings.HasPrefix(ref, "git::") || strings.HasPrefix(ref, "github.com/") ||
		strings.HasPrefix(ref, "github.com:") || remoteUser.MatchString(ref)
}
