package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	sjson "sigs.k8s.io/json"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// The cluster's own files beside pleach.yaml.
const (
	SignersFile = "trust/allowed_signers"
	TrustDir    = "trust"
	NodesDir    = "nodes"
	PoliciesDir = "policies"
)

// Versions are the values of spec.version that this build can do. Version 1 means Kubernetes 1.37's
// defaulting and validation.
var Versions = []int32{1}

// Cluster is the cluster's own files.
type Cluster struct {
	Spec     v1alpha1.Cluster
	Nodes    []*corev1.Node    // sorted by name, defaulted
	Signers  []byte            // of trust/allowed_signers
	Policies map[string][]byte // policies/**/*.rego by path from the root
}

// LoadCluster reads and checks the cluster's own files: pleach.yaml, trust, nodes and policies. The
// cluster is nil when there is a problem; all problems are returned at once, sorted by place.
func LoadCluster(tree fs.FS) (*Cluster, []Problem) {
	l := clusterLoader{r: newReader(tree), out: &Cluster{Policies: map[string][]byte{}}}
	l.spec()
	l.signers()
	l.nodes()
	l.policies(PoliciesDir)
	if len(l.problems) > 0 {
		slices.SortStableFunc(l.problems, compareProblems)
		return nil, l.problems
	}
	return l.out, nil
}

type clusterLoader struct {
	r        *reader
	out      *Cluster
	problems []Problem
}

func (l *clusterLoader) fail(file string, doc *value, at, format string, args ...any) {
	p := Problem{Path: file, Field: at, Reason: fmt.Sprintf(format, args...)}
	if doc != nil {
		p.Line = doc.locate(at)
	}
	l.problems = append(l.problems, p)
}

// one reads a file that holds exactly one object of the kind and decodes it into o.
func (l *clusterLoader) one(file, apiVersion, kind string, o any) *value {
	data, err := l.r.readFile(file)
	if err != nil {
		l.fail(file, nil, "", "%v", err)
		return nil
	}
	docs, problems := parseDocuments(data)
	for _, p := range problems {
		p.Path = file
		l.problems = append(l.problems, p)
	}
	if len(problems) > 0 {
		return nil
	}
	if len(docs) != 1 || docs[0].kind != objectValue {
		l.fail(file, nil, "", "want exactly one %s object", kind)
		return nil
	}
	doc := docs[0]
	if doc.str("apiVersion") != apiVersion || doc.str("kind") != kind {
		l.fail(file, doc, "apiVersion", "want apiVersion: %s and kind: %s", apiVersion, kind)
		return nil
	}
	bad := checkShape(reflect.TypeOf(o).Elem(), doc)
	for _, p := range bad {
		p.Path = file
		l.problems = append(l.problems, p)
	}
	if len(bad) > 0 {
		return nil
	}
	strict, err := sjson.UnmarshalStrict(doc.appendJSON(nil), o)
	if err = errors.Join(append(strict, err)...); err != nil {
		l.fail(file, doc, "", "%v", err)
		return nil
	}
	return doc
}

func (l *clusterLoader) spec() {
	c := &l.out.Spec
	doc := l.one(v1alpha1.ClusterFile, v1alpha1.APIVersion, v1alpha1.ClusterKind, c)
	if doc == nil {
		return
	}
	fail := func(at, format string, args ...any) {
		l.fail(v1alpha1.ClusterFile, doc, at, format, args...)
	}
	if errs := validation.IsDNS1123Label(c.Name); len(errs) > 0 {
		fail("metadata.name", "%s", strings.Join(errs, "; "))
	}
	if !slices.Contains(Versions, c.Spec.Version) {
		fail("spec.version", "this build can do %v, not %d: upgrade the agents before raising it", Versions, c.Spec.Version)
	}
	pods, err := netip.ParsePrefix(c.Spec.PodCIDR)
	if err != nil || pods != pods.Masked() {
		fail("spec.podCIDR", "want a network such as 10.64.0.0/12, got %q", c.Spec.PodCIDR)
	}
	if s := c.Spec.ServiceCIDR; s != "" {
		services, err := netip.ParsePrefix(s)
		switch {
		case err != nil || services != services.Masked():
			fail("spec.serviceCIDR", "want a network such as 10.96.0.0/16, got %q", s)
		case pods.IsValid() && services.Overlaps(pods):
			fail("spec.serviceCIDR", "%s overlaps spec.podCIDR %s", services, pods)
		}
	}
	network := c.Spec.Network
	if t := network.Transport; t != "" && t != v1alpha1.TransportDirect && t != v1alpha1.TransportVXLAN {
		fail("spec.network.transport", "want %s or %s, got %q", v1alpha1.TransportDirect, v1alpha1.TransportVXLAN, t)
	}
	if m := network.MTU; m != 0 && (m < 576 || m > 65535) {
		fail("spec.network.mtu", "want 576 to 65535 bytes, got %d", m)
	}
	if p := network.VXLAN.Port; p < 0 || p > 65535 {
		fail("spec.network.vxlan.port", "want 1 to 65535, got %d", p)
	}
	if n := network.VXLAN.VNI; n < 0 || n >= 1<<24 {
		fail("spec.network.vxlan.vni", "want 1 to 16777215, got %d", n)
	}
	if c.Spec.Status.PushesPerMinute < 0 {
		fail("spec.status.pushesPerMinute", "want a number from 0, got %d", c.Spec.Status.PushesPerMinute)
	}
	l.apps(c.Spec.Apps, fail)
}

func (l *clusterLoader) apps(apps []v1alpha1.App, fail func(at, format string, args ...any)) {
	names := map[string]int{}
	for i, a := range apps {
		at := fmt.Sprintf("spec.apps[%d]", i)
		if errs := validation.IsDNS1123Label(a.Name); len(errs) > 0 {
			fail(at+".name", "%s", strings.Join(errs, "; "))
		} else if first, dup := names[a.Name]; dup {
			fail(at+".name", "%q is already the name of spec.apps[%d]", a.Name, first)
		} else {
			names[a.Name] = i
		}
		if a.Namespace != "" {
			if errs := validation.IsDNS1123Label(a.Namespace); len(errs) > 0 {
				fail(at+".namespace", "%s", strings.Join(errs, "; "))
			}
		}
		if !fs.ValidPath(a.Path) || a.Path == "." {
			fail(at+".path", "want a folder inside the repository, written as a/b without ./, ../ or a slash at either end, got %q", a.Path)
			continue
		}
		for _, own := range []string{TrustDir, NodesDir, PoliciesDir} {
			if a.Path == own || strings.HasPrefix(a.Path, own+"/") {
				fail(at+".path", "%s is the cluster's own folder: move the app's files", own)
			}
		}
		for j, b := range apps[:i] {
			if a.Path == b.Path || strings.HasPrefix(a.Path, b.Path+"/") || strings.HasPrefix(b.Path, a.Path+"/") {
				fail(at+".path", "%q overlaps the path of spec.apps[%d] %q", a.Path, j, b.Name)
			}
		}
	}
}

func (l *clusterLoader) signers() {
	data, err := l.r.readFile(SignersFile)
	switch {
	case err != nil:
		l.fail(SignersFile, nil, "", "%v", err)
	case strings.TrimSpace(string(data)) == "":
		l.fail(SignersFile, nil, "", "names nobody: no later commit could be accepted")
	}
	l.out.Signers = data
}

// nodeFile is what is compared between the nodes.
type nodeFile struct {
	file string
	doc  *value
	node *corev1.Node
}

func (l *clusterLoader) nodes() {
	kind, err := l.r.kind(NodesDir)
	if kind != foundDir {
		if err != nil {
			l.fail(NodesDir, nil, "", "%v", err)
		}
		return // a cluster may have no nodes yet
	}
	entries, err := l.r.readDir(NodesDir)
	if err != nil {
		l.fail(NodesDir, nil, "", "%v", err)
		return
	}
	keys := map[string]string{}         // public key to node
	ranges := map[netip.Prefix]string{} // pod CIDR to node
	for _, e := range entries {
		file := path.Join(NodesDir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || !isManifest(file) {
			continue
		}
		node := &corev1.Node{}
		doc := l.one(file, "v1", "Node", node)
		if doc == nil {
			continue
		}
		n := nodeFile{file, doc, node}
		l.node(n)
		l.nodeKeys(n, keys)
		l.nodeRanges(n, ranges)
		l.out.Nodes = append(l.out.Nodes, node)
	}
	slices.SortFunc(l.out.Nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
}

func (l *clusterLoader) node(n nodeFile) {
	if want := strings.TrimSuffix(path.Base(n.file), path.Ext(n.file)); n.node.Name != want {
		l.fail(n.file, n.doc, "metadata.name", "want the file's name, %q, got %q", want, n.node.Name)
	}
	clearServerFields(n.node)
	for _, e := range validateNode(n.node) {
		l.fail(n.file, n.doc, e.Field, "%s", e.ErrorBody())
	}
}

// validateNode defaults a node and is what an API server would say of it.
func validateNode(node *corev1.Node) (errs field.ErrorList) {
	defer recovered(&errs)
	scheme.Default(node)
	in, err := internal(node.DeepCopy())
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	internalNode, _ := in.(*core.Node) // what a v1 Node converts to
	return corevalidation.ValidateNode(internalNode)
}

func (l *clusterLoader) nodeKeys(n nodeFile, seen map[string]string) {
	at := "metadata.annotations[" + v1alpha1.NodeKeyAnnotation + "]"
	text := n.node.Annotations[v1alpha1.NodeKeyAnnotation]
	if text == "" {
		l.fail(n.file, n.doc, at, "required: the node's public key, ssh-ed25519 …")
		return
	}
	keys := strings.Split(text, ",")
	if len(keys) > 2 {
		l.fail(n.file, n.doc, at, "want one key, or two during a rotation, got %d", len(keys))
	}
	for _, k := range keys {
		pub, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(k)))
		if err != nil || len(rest) > 0 || pub.Type() != ssh.KeyAlgoED25519 {
			l.fail(n.file, n.doc, at, "want ssh-ed25519 and a key, got %q", strings.TrimSpace(k))
			continue
		}
		id := string(pub.Marshal())
		if other, dup := seen[id]; dup {
			l.fail(n.file, n.doc, at, "is already the key of node %q: every node has its own", other)
		}
		seen[id] = n.node.Name
	}
}

func (l *clusterLoader) nodeRanges(n nodeFile, seen map[netip.Prefix]string) {
	pods, clusterErr := netip.ParsePrefix(l.out.Spec.Spec.PodCIDR)
	if len(n.node.Spec.PodCIDRs) == 0 {
		l.fail(n.file, n.doc, "spec.podCIDRs", "required: the node's part of the cluster's podCIDR")
	}
	for i, text := range n.node.Spec.PodCIDRs {
		at := fmt.Sprintf("spec.podCIDRs[%d]", i)
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			l.fail(n.file, n.doc, at, "want a network such as 10.64.1.0/24, got %q", text)
			continue
		}
		if clusterErr == nil && (p.Bits() < pods.Bits() || !pods.Contains(p.Addr())) {
			l.fail(n.file, n.doc, at, "%s is not inside the cluster's podCIDR %s", p, pods)
		}
		for q, other := range seen {
			if q.Overlaps(p) {
				l.fail(n.file, n.doc, at, "%s overlaps %s of node %q", p, q, other)
			}
		}
		seen[p] = n.node.Name
	}
}

func (l *clusterLoader) policies(dir string) {
	kind, err := l.r.kind(dir)
	if kind != foundDir {
		if err != nil {
			l.fail(dir, nil, "", "%v", err)
		}
		return
	}
	entries, err := l.r.readDir(dir)
	if err != nil {
		l.fail(dir, nil, "", "%v", err)
		return
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			l.policies(p)
		case path.Ext(p) == ".rego":
			data, err := l.r.readFile(p)
			if err != nil {
				l.fail(p, nil, "", "%v", err)
			}
			l.out.Policies[p] = data
		}
	}
}
