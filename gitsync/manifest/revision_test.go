package manifest

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// However a manifest is written, its revision and digests say what it says.
func TestRevisionIgnoresHowItIsWritten(t *testing.T) {
	want := loadOne(t, webYAML)
	if !regexp.MustCompile(`^[0-9a-z]{10}$`).MatchString(want.Revision) {
		t.Errorf("revision %q", want.Revision)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(webYAML), &n); err != nil {
			t.Fatal(err)
		}
		rewrite(rng, &n)
		text, err := yaml.Marshal(&n)
		if err != nil {
			t.Fatal(err)
		}
		got := loadOne(t, string(text))
		if got.Revision != want.Revision || got.Digest != want.Digest || got.Spec != want.Spec {
			t.Fatalf("another revision or digest for\n%s", text)
		}
	}
}

// rewrite shuffles keys and changes comments, styles and quotes.
func rewrite(rng *rand.Rand, n *yaml.Node) {
	for _, c := range n.Content {
		rewrite(rng, c)
	}
	switch n.Kind {
	case yaml.MappingNode:
		pairs := len(n.Content) / 2
		rng.Shuffle(pairs, func(i, j int) {
			n.Content[2*i], n.Content[2*j] = n.Content[2*j], n.Content[2*i]
			n.Content[2*i+1], n.Content[2*j+1] = n.Content[2*j+1], n.Content[2*i+1]
		})
		n.Style = []yaml.Style{0, yaml.FlowStyle}[rng.IntN(2)]
	case yaml.SequenceNode:
		n.Style = []yaml.Style{0, yaml.FlowStyle}[rng.IntN(2)]
	case yaml.ScalarNode:
		if n.ShortTag() == "!!str" {
			n.Style = []yaml.Style{0, yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle}[rng.IntN(3)]
		}
	}
	n.HeadComment = []string{"", "# why"}[rng.IntN(2)]
}

func TestRevision(t *testing.T) {
	base := loadOne(t, webYAML)
	tests := []struct {
		name             string
		old, new         string
		revision, digest bool // changed
		spec             bool
	}{
		{"the same quantity", "cpu: 100m", "cpu: 0.1", false, false, false},
		{"an explicit empty value", "image: example.org/web:1", "image: example.org/web:1\n        args: []\n        workingDir: ''", false, false, false},
		{"an image", "web:1", "web:2", true, true, true},
		{"replicas", "replicas: 3", "replicas: 4", false, true, true},
		{"an annotation of the Deployment", "name: web\nspec", "name: web\n  annotations: {a: b}\nspec", false, true, false},
		{"a label of the pods", "labels: {app: web}", "labels: {app: web, tier: front}", true, true, true},
		{"a default that was written", "cpu: 100m}", "cpu: 100m}\n      restartPolicy: Always", true, true, true},
		{"a pointer to zero", "spec:\n      containers", "spec:\n      terminationGracePeriodSeconds: 0\n      containers", true, true, true},
	}
	for _, tt := range tests {
		text := strings.Replace(webYAML, tt.old, tt.new, 1)
		if text == webYAML {
			t.Fatalf("%s changes nothing", tt.name)
		}
		o := loadOne(t, text)
		if (o.Revision != base.Revision) != tt.revision || (o.Digest != base.Digest) != tt.digest || (o.Spec != base.Spec) != tt.spec {
			t.Errorf("%s: changed revision %v, digest %v, spec %v", tt.name, o.Revision != base.Revision, o.Digest != base.Digest, o.Spec != base.Spec)
		}
	}
}

// The revision is in pod names and on disk: it may never change for a template.
func TestRevisionIsStable(t *testing.T) {
	if got := loadOne(t, webYAML).Revision; got != "zhply0h6ds" {
		t.Errorf("got %s", got)
	}
}

// FuzzDecode finds inputs that make decoding panic, or that two runs decode differently.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(webYAML))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: b}]}}]\n"))
	f.Add([]byte("a: &a {b: *a}\n<<: *a\n"))
	f.Add([]byte("{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d, annotations: {on: off}}, spec: {selector: {}, template: {}}}"))
	f.Add([]byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: eA==}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := decodeFile(data, "default"), decodeFile(data, "default")
		if len(a.objects) != len(b.objects) || len(a.errors) != len(b.errors) {
			t.Fatal("two runs differ")
		}
		for i := range a.objects {
			if a.objects[i].Digest != b.objects[i].Digest || a.objects[i].Revision != b.objects[i].Revision {
				t.Fatal("two runs differ")
			}
		}
	})
}
