package manifest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

// MaxObjects is the largest number of objects in one app.
const MaxObjects = 10_000

var tooMany = fmt.Sprintf("more than %d objects: split the app", MaxObjects)

// DefaultNamespace is given to objects when neither they nor their app name one.
const DefaultNamespace = "default"

// Result is an app as one commit has it.
type Result struct {
	// Objects are the accepted objects, sorted by kind, namespace and name. They may be shared with
	// other results and must not be changed. With Errors present they are those without an error.
	Objects []Object
	// Held are the objects that may not run as they are written, sorted as Objects are. A version of
	// them that was accepted before stays in force.
	Held []Object
	// Errors refuse the app's commit; Warnings do not. Both are sorted by place. A warning with
	// Held set says why an object is held, or that its kind is not supported yet.
	Errors, Warnings []Problem
	Trace            Trace
}

// Load renders, decodes, defaults and validates an app of the tree. It reads nothing but the tree, and
// equal trees give equal results on every node.
//
// A namespace need not be declared by a Namespace object: it exists as soon as an object is in it.
func Load(tree fs.FS, cluster *v1alpha1.Cluster, app v1alpha1.App) *Result {
	return new(Loader).Load(tree, cluster, app)
}

// Loader loads apps and remembers the decoded content of files, since parsing YAML is nearly all that
// loading costs. The zero value is ready; it may be used by several goroutines.
type Loader struct {
	mu sync.Mutex
	// Two generations of files: what is used moves into the young one, and a full young one becomes
	// the old one.
	young, old map[fileKey]*decoded
	size       int // source bytes of the young generation
}

type fileKey struct {
	sum       [sha256.Size]byte
	namespace string
}

// maxRemembered bounds the source bytes of one generation. Decoded, they are some twenty times larger.
const maxRemembered = 1 << 20

// Load does what the function Load does.
func (l *Loader) Load(tree fs.FS, cluster *v1alpha1.Cluster, app v1alpha1.App) *Result {
	r := newReader(tree)
	a := assembly{app: app, loader: l, namespace: cmp.Or(app.Namespace, DefaultNamespace)}
	dir, err := within(".", app.Path)
	if err == nil {
		err = a.load(r, dir)
	}
	if err != nil {
		a.errors = append(a.errors, Problem{Path: app.Path, Reason: err.Error()})
	}
	return a.result(Trace{Version: cluster.Spec.Version, App: app, Reads: r.reads()})
}

// decode gives the decoded content of a file; the result is shared and must not be changed.
func (l *Loader) decode(data []byte, namespace string) *decoded {
	key := fileKey{sha256.Sum256(data), namespace}
	l.mu.Lock()
	d := l.young[key]
	if d == nil {
		if d = l.old[key]; d != nil {
			l.rememberLocked(key, d, len(data))
		}
	}
	l.mu.Unlock()
	if d != nil {
		return d
	}
	d = decodeFile(data, namespace)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rememberLocked(key, d, len(data))
	return d
}

func (l *Loader) rememberLocked(key fileKey, d *decoded, size int) {
	if l.young == nil || l.size+size > maxRemembered {
		l.old, l.young, l.size = l.young, map[fileKey]*decoded{}, 0
	}
	l.young[key] = d
	l.size += size
}

// assembly puts an app together from its files.
type assembly struct {
	app              v1alpha1.App
	namespace        string
	loader           *Loader
	objects          []Object
	errors, warnings []Problem
}

func (a *assembly) load(r *reader, dir string) error {
	kind, err := r.kind(dir)
	switch {
	case err != nil:
		return err
	case kind == foundNothing:
		return fmt.Errorf("no such folder: correct the path of app %q in %s", a.app.Name, v1alpha1.ClusterFile)
	case kind == foundFile:
		return fmt.Errorf("want a folder, got a file: correct the path of app %q in %s", a.app.Name, v1alpha1.ClusterFile)
	}
	name, err := kustomizationIn(r, dir)
	switch {
	case err != nil:
		return err
	case name != "":
		a.kustomize(r, dir, name)
		return nil
	}
	return a.folder(r, dir)
}

// folder loads plain manifests, recursively.
func (a *assembly) folder(r *reader, dir string) error {
	entries, err := r.readDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			err = a.folder(r, p)
		case isManifest(p):
			var data []byte
			if data, err = r.readFile(p); err == nil {
				a.add(p, a.loader.decode(data, a.namespace), nil)
			}
		case e.Type()&fs.ModeSymlink != 0 || !e.Type().IsRegular():
			_, err = r.kind(p)
		}
		if err != nil {
			a.errors = append(a.errors, Problem{Path: p, Reason: err.Error()})
			err = nil
		}
		if len(a.objects) > MaxObjects {
			return fmt.Errorf("%s", tooMany)
		}
	}
	return nil
}

func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// add takes over the content of one file. For a rendered object, origin is the document that it was
// made of, and gives the lines.
func (a *assembly) add(file string, d *decoded, origin *value) {
	place := func(problems []Problem) []Problem {
		out := slices.Clone(problems)
		for i := range out {
			out[i].Path = file
			if origin != nil {
				line, exact := origin.find(out[i].Field)
				if !exact {
					line = origin.line // a patch may have brought the field
				}
				out[i].Line = line
			}
		}
		return out
	}
	a.errors = append(a.errors, place(d.errors)...)
	a.warnings = append(a.warnings, place(d.warnings)...)
	for _, o := range d.objects {
		o.Source = reconcile.Source{App: a.app.Name, Path: file, Line: o.Source.Line}
		if origin != nil {
			o.Source.Line = origin.line
		}
		a.objects = append(a.objects, o)
	}
}

func (a *assembly) result(t Trace) *Result {
	slices.SortStableFunc(a.objects, compareObjects)
	res := &Result{Trace: t}
	for i, o := range a.objects {
		if i > 0 && compareObjects(a.objects[i-1], o) == 0 {
			first := a.objects[i-1].Source
			a.errors = append(a.errors, Problem{
				Path: o.Source.Path, Line: o.Source.Line, Object: Name(o.Object),
				Reason: fmt.Sprintf("is already in %s:%d: keep one of them", first.Path, first.Line),
			})
			continue
		}
		if o.Held {
			res.Held = append(res.Held, o)
		} else {
			res.Objects = append(res.Objects, o)
		}
	}
	for _, list := range [][]Problem{a.errors, a.warnings} {
		for i := range list {
			list[i].App = a.app.Name
		}
		slices.SortStableFunc(list, compareProblems)
	}
	res.Errors, res.Warnings = a.errors, a.warnings
	return res
}

// Name is how messages name an object: "apps/v1 Deployment default/web".
func Name(o reconcile.K8sObject) string {
	return objectName(o.GetObjectKind().GroupVersionKind(), o.GetNamespace(), o.GetName())
}

func compareObjects(a, b Object) int {
	return cmp.Or(
		cmp.Compare(a.Object.GetObjectKind().GroupVersionKind().Kind, b.Object.GetObjectKind().GroupVersionKind().Kind),
		cmp.Compare(a.Object.GetNamespace(), b.Object.GetNamespace()),
		cmp.Compare(a.Object.GetName(), b.Object.GetName()),
	)
}

func compareProblems(a, b Problem) int {
	return cmp.Or(
		cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Field, b.Field),
		cmp.Compare(a.Object, b.Object),
		cmp.Compare(a.Reason, b.Reason),
	)
}
