package manifest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

var app = v1alpha1.App{Name: "app", Path: "app"}

// loadOne loads an app of one file and wants it to hold one object and no error.
func loadOne(t testing.TB, text string) Object {
	t.Helper()
	r := Load(fstest.MapFS{"app/a.yaml": {Data: []byte(text)}}, cluster(), app)
	for _, p := range r.Errors {
		t.Error(p)
	}
	if len(r.Objects) != 1 {
		t.Fatalf("got %d objects of\n%s", len(r.Objects), text)
	}
	return r.Objects[0]
}

func TestDefaulted(t *testing.T) {
	o := loadOne(t, webYAML)
	d, _ := o.Object.(*appsv1.Deployment)
	if d == nil {
		t.Fatalf("got a %T", o.Object)
	}
	if d.APIVersion != "apps/v1" || d.Kind != "Deployment" || d.Namespace != "default" || *d.Spec.RevisionHistoryLimit != 10 {
		t.Errorf("not defaulted: %+v", d)
	}
	if o.Template.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("the template is not defaulted: %+v", o.Template.Spec)
	}
}

func TestSecretStringData(t *testing.T) {
	o := loadOne(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\ndata: {a: eA==, c: eQ==}\n")
	s, _ := o.Object.(*corev1.Secret)
	if string(s.Data["a"]) != "b" || string(s.Data["c"]) != "y" || s.StringData != nil || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("got %+v", s)
	}
	same := loadOne(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: Yg==, c: eQ==}\n")
	if same.Digest != o.Digest {
		t.Error("stringData and the same data have different digests")
	}
}

// Every file of an app that is too large or holds too much gives an error and not a crash.
func TestLimits(t *testing.T) {
	many := strings.Repeat("---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n", MaxObjects+1)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 10))
	}
	tests := []struct {
		name, want string
		data       []byte
	}{
		{"20 MB", "larger than 2 MiB: split the file", bytes.Repeat([]byte("# 0123456789\n"), 20<<20/13)},
		{"too many objects", "more than 10000 objects: split the app", []byte(many)},
		{"aliases that grow", "too large", []byte(bomb)},
		{"an alias of itself", "", []byte("a: &a [*a]\n")},
		{"nested deep", "too large", []byte(strings.Repeat("[", 5000) + strings.Repeat("]", 5000))},
		{"binary", "", []byte("\x00\xff\xfe")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && len(tt.data) > 100<<10 {
				t.Skip("large")
			}
			tree := fstest.MapFS{"app/big.yaml": {Data: tt.data}, "app/web.yaml": {Data: []byte(webYAML)}}
			r := Load(tree, cluster(), app)
			if len(r.Errors) == 0 || !strings.Contains(r.Errors[0].Error(), tt.want) {
				t.Errorf("got %.300v, want %q", r.Errors, tt.want)
			}
			if !r.Trace.Unchanged(tree) {
				t.Error("the trace of the same tree says changed")
			}
		})
	}
}

// hashed is a tree that knows its objects' ids, as a git tree does.
type hashed struct{ fstest.MapFS }

func (h hashed) Hash(path string) (string, bool) {
	f, ok := h.MapFS[path]
	if !ok || f.Mode.IsDir() {
		return "", false
	}
	return fmt.Sprintf("%x", len(f.Data)), true
}

func TestTrace(t *testing.T) {
	start := func() fstest.MapFS {
		return fstest.MapFS{
			"app/kustomization.yaml":  {Data: []byte("resources: [../base]\nconfigMapGenerator: [{name: c, files: [../base/motd]}]\n")},
			"base/kustomization.yaml": {Data: []byte("resources: [web.yaml]\n")},
			"base/web.yaml":           {Data: []byte(webYAML)},
			"base/motd":               {Data: []byte("hello")},
			"other/web.yaml":          {Data: []byte(webYAML)},
			"plain/a.yaml":            {Data: []byte(webYAML)},
		}
	}
	changes := []struct {
		name, app string
		changed   bool
		do        func(fstest.MapFS)
	}{
		{"nothing", "app", false, func(fstest.MapFS) {}},
		{"an unrelated file", "app", false, func(m fstest.MapFS) { m["other/web.yaml"] = &fstest.MapFile{Data: []byte("x")} }},
		{"a base outside", "app", true, func(m fstest.MapFS) { m["base/web.yaml"] = &fstest.MapFile{Data: []byte(webYAML + "# more\n")} }},
		{"a generator's file", "app", true, func(m fstest.MapFS) { m["base/motd"] = &fstest.MapFile{Data: []byte("hello!")} }},
		{"a kustomization of another name", "app", true, func(m fstest.MapFS) { m["base/kustomization.yml"] = &fstest.MapFile{} }},
		{"a file that is gone", "app", true, func(m fstest.MapFS) { delete(m, "base/motd") }},
		{"a new manifest", "plain", true, func(m fstest.MapFS) { m["plain/b.yaml"] = &fstest.MapFile{} }},
		{"a new kustomization", "plain", true, func(m fstest.MapFS) { m["plain/Kustomization"] = &fstest.MapFile{} }},
		{"a file that became a link", "plain", true, func(m fstest.MapFS) {
			m["plain/a.yaml"] = &fstest.MapFile{Data: []byte("../other/web.yaml"), Mode: fs.ModeSymlink}
		}},
	}
	for _, withHash := range []bool{false, true} {
		for _, tt := range changes {
			t.Run(fmt.Sprintf("%s, hash %v", tt.name, withHash), func(t *testing.T) {
				as := func(m fstest.MapFS) fs.FS {
					if withHash {
						return hashed{m}
					}
					return m
				}
				a := v1alpha1.App{Name: "a", Path: tt.app}
				tree := start()
				before := Load(as(tree), cluster(), a)
				if len(before.Errors) > 0 {
					t.Fatal(before.Errors)
				}
				tt.do(tree)
				if got := !before.Trace.Unchanged(as(tree)); got != tt.changed {
					t.Errorf("Unchanged says changed: %v, want %v", got, tt.changed)
				}
				after := Load(as(tree), cluster(), a)
				if got := before.Trace.Key() != after.Trace.Key(); got != tt.changed {
					t.Errorf("Key changed: %v, want %v\n%v\n%v", got, tt.changed, before.Trace.Reads, after.Trace.Reads)
				}
			})
		}
	}
}

func TestTraceKeyNamesItsInputs(t *testing.T) {
	tree := fstest.MapFS{"app/a.yaml": {Data: []byte(webYAML)}}
	two := cluster()
	two.Spec.Version = 2
	keys := []string{
		Load(tree, cluster(), app).Trace.Key(),
		Load(tree, two, app).Trace.Key(),
		Load(tree, cluster(), v1alpha1.App{Name: "app", Path: "app", Namespace: "shop"}).Trace.Key(),
	}
	slices.Sort(keys)
	if len(slices.Compact(keys)) != 3 {
		t.Error("version and namespace are not part of the key")
	}
	tr := Load(tree, cluster(), app).Trace
	if got := slices.Collect(tr.Paths()); !slices.Contains(got, "app/a.yaml") || !slices.Contains(got, "app/kustomization.yaml") {
		t.Errorf("paths: %q", got)
	}
}

// A warm loader and a fresh one give the same, from many goroutines at once.
func TestLoaderIsShared(t *testing.T) {
	tree := fstest.MapFS{
		"app/kustomization.yaml": {Data: []byte("resources: [a.yaml]\nnamePrefix: x-\n")},
		"app/a.yaml":             {Data: []byte(webYAML)},
		"plain/a.yaml":           {Data: []byte(webYAML)},
	}
	var l Loader
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, path := range []string{"app", "plain", "plain"} {
				a := v1alpha1.App{Name: path, Path: path}
				warm, fresh := l.Load(tree, cluster(), a), Load(tree, cluster(), a)
				if len(warm.Objects) != 1 || warm.Objects[0].Digest != fresh.Objects[0].Digest ||
					warm.Objects[0].Source != fresh.Objects[0].Source || warm.Trace.Key() != fresh.Trace.Key() {
					t.Errorf("%s: warm %+v, fresh %+v", path, warm, fresh)
				}
			}
		})
	}
	wg.Wait()
}

func TestAppPathLeavesTheRepository(t *testing.T) {
	for _, path := range []string{"../etc", "/etc", "a/../../etc"} {
		r := Load(fstest.MapFS{"app/a.yaml": {Data: []byte(webYAML)}}, cluster(), v1alpha1.App{Name: "app", Path: path})
		if len(r.Errors) != 1 || len(r.Objects) != 0 {
			t.Errorf("%s: %v, %v", path, r.Errors, r.Objects)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	tree := fstest.MapFS{}
	for i := range 100 {
		tree[fmt.Sprintf("app/%d.yaml", i)] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(webYAML, "name: web\nspec", fmt.Sprintf("name: web%d\nspec", i)))}
	}
	run := func(b *testing.B, l func() *Loader) {
		b.ReportAllocs()
		for b.Loop() {
			if r := l().Load(tree, cluster(), app); len(r.Objects) != 100 {
				b.Fatal(len(r.Objects), r.Errors)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/100, "µs/object")
	}
	b.Run("fresh", func(b *testing.B) { run(b, func() *Loader { return new(Loader) }) })
	var warm Loader
	b.Run("warm", func(b *testing.B) { run(b, func() *Loader { return &warm }) })
	trace := warm.Load(tree, cluster(), app).Trace
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			if !trace.Unchanged(tree) {
				b.Fatal("changed")
			}
		}
	})
}

// A git tree tells the size of a file, so that a large one is not even read.
func TestLargeFileOfAHashedTree(t *testing.T) {
	tree := hashed{fstest.MapFS{"app/big.yaml": {Data: make([]byte, MaxFileSize+1)}}}
	r := Load(tree, cluster(), app)
	if len(r.Errors) != 1 || !strings.Contains(r.Errors[0].Reason, "2 MiB") || !r.Trace.Unchanged(tree) {
		t.Errorf("got %v", r.Errors)
	}
}

func TestTooManyReplicas(t *testing.T) {
	tree := fstest.MapFS{"app/a.yaml": {Data: []byte(strings.Replace(webYAML, "replicas: 3", "replicas: 2000000000", 1))}}
	r := Load(tree, cluster(), app)
	if len(r.Errors) != 1 || r.Errors[0].Field != "spec.replicas" || r.Errors[0].Line != 7 {
		t.Errorf("got %v", r.Errors)
	}
}

// A loader forgets what was not used for a while, and goes on giving what a fresh one gives.
func TestLoaderForgets(t *testing.T) {
	var l Loader
	for i := range 40 {
		text := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata: {a: %q}\n", i, strings.Repeat("x", 100<<10))
		tree := fstest.MapFS{"app/a.yaml": {Data: []byte(text)}, "app/web.yaml": {Data: []byte(webYAML)}}
		if r := l.Load(tree, cluster(), app); len(r.Objects) != 2 || r.Objects[0].Object.GetName() != fmt.Sprintf("c%d", i) {
			t.Fatalf("got %v, %v", r.Objects, r.Errors)
		}
	}
	if n := len(l.young) + len(l.old); n > 2*maxRemembered/(100<<10)+2 {
		t.Errorf("%d files are remembered", n)
	}
	if d := l.young[fileKey{sha256.Sum256([]byte(webYAML)), "default"}]; d == nil {
		t.Error("what is used each time was forgotten")
	}
}
