package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
)

// scope is the namespace that a command looks at.
type scope struct {
	namespace string
	all       bool
}

func (s *scope) flags(cmd *cobra.Command, withAll bool) {
	cmd.Flags().StringVarP(&s.namespace, "namespace", "n", metav1.NamespaceDefault, "the namespace to look in")
	if withAll {
		cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "look in all namespaces")
	}
}

// of returns the namespace to ask for, "" for all.
func (s *scope) of(k api.Kind) string {
	if s.all || !k.Namespaced {
		return ""
	}
	return s.namespace
}

// target is one thing on a command line: a kind, and a name unless all of the kind are meant.
type target struct {
	kind api.Kind
	name string
}

// all is kubectl's word for what runs.
var all = []string{"pods", "daemonsets", "deployments", "replicasets"}

// parseTargets reads KIND[,KIND...] [NAME...] and KIND/NAME....
func parseTargets(args []string) ([]target, error) {
	if strings.Contains(args[0], "/") {
		var out []target
		for _, arg := range args {
			word, name, ok := strings.Cut(arg, "/")
			if !ok || name == "" {
				return nil, usageError{fmt.Errorf("%s: want KIND/NAME, like the others", arg)}
			}
			k, err := api.FindKind(word)
			if err != nil {
				return nil, usageError{err}
			}
			out = append(out, target{k, name})
		}
		return out, nil
	}
	words := strings.Split(args[0], ",")
	if len(words) == 1 && words[0] == "all" {
		words = all
	}
	var out []target
	for _, word := range words {
		k, err := api.FindKind(word)
		if err != nil {
			return nil, usageError{err}
		}
		if len(args) == 1 {
			out = append(out, target{kind: k})
		}
		for _, name := range args[1:] {
			out = append(out, target{k, name})
		}
	}
	return out, nil
}

// parseTarget reads POD or KIND/NAME.
func parseTarget(arg string) (target, error) {
	if !strings.Contains(arg, "/") {
		arg = "pods/" + arg
	}
	out, err := parseTargets([]string{arg})
	if err != nil {
		return target{}, err
	}
	return out[0], nil
}

// pods returns the pods that a target means: itself, or a workload's, those that run on this node first.
func (t target) pods(ctx context.Context, c *api.Client, namespace string) ([]*corev1.Pod, error) {
	if t.kind.Kind == "Pod" {
		return listPods(ctx, c, api.ListOptions{Namespace: namespace, Name: t.name})
	}
	if !t.kind.Workload {
		return nil, usageError{fmt.Errorf("%s/%s has no containers; name a pod or a workload", t.kind.Resource, t.name)}
	}
	descriptions, err := c.Describe(ctx, t.kind, api.ListOptions{Namespace: namespace, Name: t.name})
	if err != nil {
		return nil, err
	}
	d := descriptions[0]
	if len(d.Pods) == 0 {
		return nil, fmt.Errorf("%s/%s has no pod; \"pleach explain %[1]s/%[2]s\" says why", t.kind.Resource, t.name)
	}
	rank := func(p *corev1.Pod) int {
		switch {
		case p.Spec.NodeName != d.Node: // its logs and its shell are there
			return 2
		case p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(d.Pods, func(a, b *corev1.Pod) int { return rank(a) - rank(b) })
	return d.Pods, nil
}

func listPods(ctx context.Context, c *api.Client, o api.ListOptions) ([]*corev1.Pod, error) {
	k, err := api.FindKind("pods")
	if err != nil {
		return nil, err
	}
	objects, err := c.List(ctx, k, o)
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.Pod, 0, len(objects))
	for _, o := range objects {
		p, ok := o.(*corev1.Pod)
		if !ok {
			return nil, errors.New("the agent sent something else than pods")
		}
		out = append(out, p)
	}
	return out, nil
}

// checkSelector reports a mistake in a label selector before the agent is asked.
func checkSelector(s string) error {
	if _, err := labels.Parse(s); err != nil {
		return usageError{fmt.Errorf("--selector: %w", err)}
	}
	return nil
}

// short is a commit as people read it.
func short(c reconcile.Commit) string { return cmp.Or(c.ID[:min(12, len(c.ID))], "none") }
