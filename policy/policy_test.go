package policy

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func deployment(image string) *appsv1.Deployment {
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}}
	d.Name, d.Namespace = "web", "shop"
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: image}}
	return d
}

func prepare(t testing.TB, files map[string]string) *Set {
	t.Helper()
	s, errs := Prepare(bytesOf(files))
	for _, e := range errs {
		t.Error(e)
	}
	if s == nil {
		t.FailNow()
	}
	return s
}

func bytesOf(files map[string]string) map[string][]byte {
	out := map[string][]byte{}
	for path, text := range files {
		out[path] = []byte(text)
	}
	return out
}

const images = `package pleach.admission

import data.lib.containers

deny contains msg if {
	some c in containers.of(input.object)
	endswith(c.image, ":latest")
	msg := {"msg": sprintf("container %s has no fixed image", [c.name]), "field": "spec.template.spec.containers"}
}

deny contains "nobody signed" if count(input.signers) == 0

warn contains msg if {
	input.operation == "DELETE"
	msg := sprintf("%s goes away", [input.oldObject.metadata.name])
}
`

const lib = `package lib.containers

of(object) := object.spec.template.spec.containers
`

func TestEval(t *testing.T) {
	s := prepare(t, map[string]string{
		"policies/images.rego":      images,
		"policies/lib.rego":         lib,
		"policies/images_test.rego": "this is not even Rego",
	})
	tests := []struct {
		name string
		in   Input
		want Verdict
	}{
		{"allowed", Input{Operation: Create, Object: deployment("web:1"), Signers: []string{"ann"}}, Verdict{}},
		{"denied with field", Input{Operation: Update, Object: deployment("web:latest"), OldObject: deployment("web:1"), Signers: []string{"ann"}}, Verdict{
			Denied: []Message{{"policies/images.rego", 5, "container web has no fixed image", "spec.template.spec.containers"}},
		}},
		{"two rules deny", Input{Operation: Create, Object: deployment("web:latest")}, Verdict{
			Denied: []Message{
				{"policies/images.rego", 5, "container web has no fixed image", "spec.template.spec.containers"},
				{"policies/images.rego", 11, "nobody signed", ""},
			},
		}},
		{"warned", Input{Operation: Delete, OldObject: deployment("web:1"), Signers: []string{"ann"}}, Verdict{
			Warnings: []Message{{"policies/images.rego", 13, "web goes away", ""}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.Eval(tt.in); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestMessageOfAnotherTypeStillDenies(t *testing.T) {
	s := prepare(t, map[string]string{"a.rego": "package pleach.admission\n\ndeny contains 7\n\ndeny contains {\"field\": \"x\"}\n"})
	got := s.Eval(Input{Operation: Create, Object: deployment("web:1")})
	want := []Message{{"a.rego", 3, "7", ""}, {"a.rego", 5, `{"field":"x"}`, ""}}
	if !reflect.DeepEqual(got.Denied, want) {
		t.Errorf("got %+v, want %+v", got.Denied, want)
	}
}

func TestNoRuleAllows(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no file":    nil,
		"a library":  {"lib.rego": lib},
		"only tests": {"lib_test.rego": "nonsense"},
	} {
		if v := prepare(t, files).Eval(Input{Operation: Create}); !v.Allowed() {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// What is withheld must fail to compile, with the place and the reason.
func TestWithheldBuiltins(t *testing.T) {
	calls := map[string]string{
		"http.send":          `http.send({"method": "get", "url": "http://example.org"})`,
		"time.now_ns":        `time.now_ns()`,
		"rand.intn":          `rand.intn("a", 5)`,
		"uuid.rfc4122":       `uuid.rfc4122("a")`,
		"opa.runtime":        `opa.runtime()`,
		"net.lookup_ip_addr": `net.lookup_ip_addr("example.org")`,
		"time.clock":         `time.clock([0, "Local"])`,
		"trace":              `trace("here")`,
	}
	for name, call := range calls {
		src := "package pleach.admission\n\ndeny contains msg if {\n\t" + call + "\n\tmsg := \"x\"\n}\n"
		s, errs := Prepare(map[string][]byte{"p.rego": []byte(src)})
		if s != nil || len(errs) == 0 {
			t.Errorf("%s compiles", name)
			continue
		}
		want := fmt.Sprintf("p.rego:4: %s is not available: %s", name, unavailable[name])
		if got := errs[0].Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	for _, b := range capabilities().Builtins {
		if b.Nondeterministic {
			t.Errorf("%s is nondeterministic and available", b.Name)
		}
	}
}

func TestPrepareUnsafe(t *testing.T) {
	_, errs := Prepare(bytesOf(map[string]string{"p.rego": "package pleach.admission\n\ndeny contains \"x\" if inputt.object\n"}))
	want := `p.rego:3: inputt has no value here: is the name right, and is it imported or given one outside of "not"?`
	if len(errs) != 1 || errs[0].Error() != want {
		t.Errorf("got %v, want %s", errs, want)
	}
}

func TestPrepareErrors(t *testing.T) {
	_, errs := Prepare(bytesOf(map[string]string{
		"a.rego": "package pleach.admission\n\ndeny contains msg if {\n",
		"b.rego": "package pleach.admission\n\ndeny := true\n",
		"c.rego": "package admission\n\ndeny contains \"x\"\n",
		"d.rego": "# nothing\n",
	}))
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	want := []string{
		"a.rego:4: ",
		"b.rego:3: want a set of messages: write deny contains msg if { … }",
		"c.rego:3: deny is asked in package pleach.admission only: move the rule there or give it another name",
		"d.rego: empty module",
	}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q …", got[i], want[i])
		}
	}
}

// endless never comes to an end within MaxSteps.
const endless = `package pleach.admission

deny contains msg if {
	some a in numbers.range(1, 4000)
	some b in numbers.range(1, 4000)
	a * b < 0
	msg := "never"
}
`

func TestUndecided(t *testing.T) {
	const few = 20_000 // steps, instead of MaxSteps, to be quick
	in := Input{Operation: Create, Object: deployment("web:1")}
	s := prepare(t, map[string]string{"p.rego": endless})
	if v := s.eval(in, &budget{left: few}); v.Allowed() || len(v.Denied) > 0 || !strings.Contains(v.Undecided, "steps") {
		t.Errorf("got %+v", v)
	}
	s = prepare(t, map[string]string{"p.rego": strings.Replace(endless, "deny", "warn", 1) + "\ndeny contains \"no\"\n"})
	if v := s.eval(in, &budget{left: few}); v.Undecided != "" || len(v.Denied) != 1 {
		t.Errorf("a denial does not stand: %+v", v)
	}
	s = prepare(t, map[string]string{"p.rego": "package pleach.admission\n\nf(_) := 1\n\nf(_) := 2\n\ndeny contains \"x\" if f(1) == 1\n"})
	if v := s.Eval(in); v.Undecided == "" {
		t.Errorf("a conflict decided: %+v", v)
	}
}

func TestStepsAreCountedAlike(t *testing.T) {
	s := prepare(t, map[string]string{"policies/images.rego": images, "policies/lib.rego": lib})
	steps := map[int]bool{}
	for range 20 {
		b := &budget{left: MaxSteps}
		in := Input{Operation: Create, Object: deployment("web:latest")}
		if v := s.eval(in, b); v.Undecided != "" {
			t.Fatal(v.Undecided)
		}
		steps[MaxSteps-b.left] = true
	}
	if len(steps) != 1 {
		t.Errorf("the same evaluation took %v steps", steps)
	}
}

func TestConcurrent(t *testing.T) {
	s := prepare(t, map[string]string{"policies/images.rego": images, "policies/lib.rego": lib})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if v := s.Eval(Input{Operation: Create, Object: deployment("web:latest")}); len(v.Denied) != 2 {
					t.Errorf("got %+v", v)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzPrepare(f *testing.F) {
	f.Add([]byte(images))
	f.Add([]byte("package pleach.admission\ndeny contains 1\n"))
	f.Add([]byte("package pleach.admission\ndeny.x contains 1\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		s, errs := Prepare(map[string][]byte{"p.rego": src})
		if (s == nil) != (len(errs) > 0) {
			t.Errorf("set %v, errors %v", s, errs)
		}
	})
}

func benchmark(b *testing.B, rules int) {
	src := "package pleach.admission\n"
	for i := range rules {
		src += fmt.Sprintf("\ndeny contains msg if {\n\tinput.object.kind == \"Deployment\"\n\tsome c in input.object.spec.template.spec.containers\n\tc.image == \"bad:%d\"\n\tmsg := sprintf(\"container %%s\", [c.name])\n}\n", i)
	}
	s := prepare(b, map[string]string{"p.rego": src})
	in := Input{Operation: Create, Object: deployment("web:1")}
	b.ReportAllocs()
	for b.Loop() {
		s.Eval(in)
	}
}

func BenchmarkEval1(b *testing.B)  { benchmark(b, 1) }
func BenchmarkEval60(b *testing.B) { benchmark(b, 60) }

func BenchmarkBudget(b *testing.B) {
	s := prepare(b, map[string]string{"p.rego": endless})
	for b.Loop() {
		s.Eval(Input{Operation: Create})
	}
}
