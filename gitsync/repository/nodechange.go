package repository

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

// DrainTaint is what a drained node carries: its pods go to other nodes, gently. DaemonSets' stay.
var DrainTaint = corev1.Taint{Key: reconcile.DrainTaint, Effect: corev1.TaintEffectNoExecute}

// CordonNode marks a node as unschedulable: no pod comes, those that are there stay. Nothing is
// committed, and the id is "", when that is so already; the same holds for the other changes.
func CordonNode(dir, name string, c Change) (commitID string, err error) {
	return c.changeNode(dir, name, "cordon",
		func(n *corev1.Node) { n.Spec.Unschedulable = true },
		func(f *manifestText) { f.cordon(true) })
}

// DrainNode cordons a node and gives it [DrainTaint].
func DrainNode(dir, name string, c Change) (commitID string, err error) {
	return c.changeNode(dir, name, "drain", func(n *corev1.Node) {
		n.Spec.Unschedulable = true
		if !slices.ContainsFunc(n.Spec.Taints, reconcile.IsDrain) {
			n.Spec.Taints = slices.Insert(n.Spec.Taints, 0, DrainTaint)
		}
	}, func(f *manifestText) {
		f.cordon(true)
		if !slices.ContainsFunc(f.taints(), reconcile.IsDrain) {
			f.taint(true, DrainTaint)
		}
	})
}

// UncordonNode takes back what [CordonNode] and [DrainNode] did.
func UncordonNode(dir, name string, c Change) (commitID string, err error) {
	return c.changeNode(dir, name, "uncordon", func(n *corev1.Node) {
		n.Spec.Unschedulable = false
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, reconcile.IsDrain)
	}, func(f *manifestText) {
		f.cordon(false)
		f.taint(false, DrainTaint)
	})
}

// RemoveNode takes a node's file away, and with it its place in the flock. Its lines in
// trust/allowed_signers stay, so that the status commits that it signed are good for ever: a key with
// a node's principal counts for nothing else, whether the node is enrolled or not. forget takes them
// away too, for a key that was stolen.
func RemoveNode(dir, name string, forget bool, c Change) (commitID string, err error) {
	file, _, err := nodeFile(dir, name)
	if err != nil {
		return "", err
	}
	guarded := []string{file}
	if forget {
		guarded = append(guarded, manifest.SignersFile)
	}
	return c.make(dir, "nodes: remove "+name, guarded, func() ([]string, error) {
		if forget {
			if err := forgetSigners(dir, name, ""); err != nil {
				return nil, err
			}
		}
		return guarded, os.Remove(filepath.Join(dir, filepath.FromSlash(file)))
	})
}

// AddNodeKey enrols a second key of a node beside the one that it has: the first step of a rotation.
func AddNodeKey(dir, name, key string, c Change) (commitID string, err error) {
	public, err := trust.ParseNodeKeys(key)
	if err != nil {
		return "", err
	}
	if len(public) != 1 {
		return "", errors.New("node key: want the one new key")
	}
	return c.rekey(dir, name, "a second key for", func(keys []string) ([]string, error) {
		if len(keys) > 1 {
			return nil, fmt.Errorf("node %s: has two keys already; finish that rotation first: pleach node rotate %[1]s --finish", name)
		}
		return append(keys, trust.AuthorizedKey(public[0])), nil
	}, "")
}

// DropNodeKey ends a rotation: of the node's two keys the second stays. The line of the first in
// trust/allowed_signers stays too, as with [RemoveNode]; forget takes it away.
func DropNodeKey(dir, name string, forget bool, c Change) (commitID string, err error) {
	_, node, err := nodeFile(dir, name)
	if err != nil {
		return "", err
	}
	gone := ""
	if forget {
		gone = splitKeys(node.Annotations[v1alpha1.NodeKeyAnnotation])[0]
	}
	return c.rekey(dir, name, "only the new key for", func(keys []string) ([]string, error) {
		if len(keys) < 2 {
			return nil, fmt.Errorf("node %s: has one key; \"pleach node rotate %[1]s --key …\" begins a rotation", name)
		}
		return keys[1:], nil
	}, gone)
}

// rekey changes the list of a node's keys, and forgets the signer's lines of gone.
func (c Change) rekey(dir, name, what string, change func([]string) ([]string, error), gone string) (string, error) {
	file, node, err := nodeFile(dir, name)
	if err != nil {
		return "", err
	}
	keys, err := change(splitKeys(node.Annotations[v1alpha1.NodeKeyAnnotation]))
	if err != nil {
		return "", err
	}
	annotation := strings.Join(keys, ",")
	files := []string{file, manifest.SignersFile}
	return c.make(dir, fmt.Sprintf("nodes: %s %s", what, name), files, func() ([]string, error) {
		undo, err := rewrite(dir, file, func(n *corev1.Node) { n.Annotations[v1alpha1.NodeKeyAnnotation] = annotation },
			func(f *manifestText) { f.set(annotation, "metadata", "annotations", v1alpha1.NodeKeyAnnotation) })
		if err != nil {
			return nil, err
		}
		if gone != "" {
			err = forgetSigners(dir, name, gone)
		} else {
			err = addSigners(dir, name, annotation)
		}
		if err != nil {
			return nil, errors.Join(err, undo())
		}
		return files, nil
	})
}

// changeNode changes a node's file; verb is for the message.
func (c Change) changeNode(dir, name, verb string, change func(*corev1.Node), text func(*manifestText)) (string, error) {
	file, node, err := nodeFile(dir, name)
	if err != nil {
		return "", err
	}
	if after := node.DeepCopy(); unchanged(node, after, change) {
		return "", nil
	}
	return c.make(dir, fmt.Sprintf("nodes: %s %s", verb, name), []string{file}, func() ([]string, error) {
		_, err := rewrite(dir, file, change, text)
		return []string{file}, err
	})
}

func unchanged(before, after *corev1.Node, change func(*corev1.Node)) bool {
	change(after)
	return before.Spec.Unschedulable == after.Spec.Unschedulable && slices.Equal(before.Spec.Taints, after.Spec.Taints)
}

// rewrite edits a file in place; it stays as it was when the loader does not take the result. undo
// brings it back.
func rewrite(dir, file string, change func(*corev1.Node), text func(*manifestText)) (undo func() error, err error) {
	path := filepath.Join(dir, filepath.FromSlash(file))
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out, err := editNode(data, change, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; make this change by hand and commit it", file, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	undo = func() error { return os.WriteFile(path, data, info.Mode().Perm()) }
	if err := os.WriteFile(path, out, info.Mode().Perm()); err != nil {
		return nil, errors.Join(err, undo())
	}
	if _, bad := manifest.LoadCluster(os.DirFS(dir)); len(bad) > 0 {
		return nil, errors.Join(problems(bad), undo())
	}
	return undo, nil
}

// nodeFile finds a node's file, from the repository's root, and what it says.
func nodeFile(dir, name string) (string, *corev1.Node, error) {
	cluster, bad := manifest.LoadCluster(os.DirFS(dir))
	if len(bad) > 0 {
		return "", nil, problems(bad)
	}
	var known []string
	for _, n := range cluster.Nodes {
		if n.Name != name {
			known = append(known, n.Name)
			continue
		}
		for _, ext := range []string{".yaml", ".yml", ".json"} {
			file := manifest.NodesDir + "/" + name + ext
			if _, err := fs.Stat(os.DirFS(dir), file); err == nil {
				return file, n, nil
			}
		}
	}
	return "", nil, fmt.Errorf("node %s: is not in this repository; it has %s", name, cmp.Or(strings.Join(known, ", "), "no node"))
}

// taints returns those that the text has now.
func (f *manifestText) taints() (out []corev1.Taint) {
	for _, item := range f.find("spec", "taints").items() {
		var t corev1.Taint
		if item.Decode(&t) == nil {
			out = append(out, t)
		}
	}
	return out
}
