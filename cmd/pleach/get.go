package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
)

type getOptions struct {
	scope
	tableOptions
	output, selector string
	watch            bool
	out, err         io.Writer
}

func getCommand(l *local) *cobra.Command {
	o := &getOptions{}
	cmd := &cobra.Command{
		Use:   "get KIND[,KIND...] [NAME...] | KIND/NAME...",
		Short: "List objects, with kubectl's columns",
		Long: `List objects of the whole flock as this node knows them. Its own pods come with their full
status, pods of other nodes with what those nodes tell of them; a node that is gone is
NotReady, and its pods are NodeLost. The values of Secrets are never printed:
-o yaml and -o json show their keys, and their sizes in an annotation.

Kinds: pods (po), deployments (deploy), replicasets (rs), daemonsets (ds), configmaps (cm),
secrets, roles, rolebindings, clusterroles, clusterrolebindings, namespaces (ns), nodes (no),
events (ev), all.`,
		Example: `  pleach get pods
  pleach get deploy,rs -A
  pleach get pod web-7c9f4d5b6a-x2k8q -o yaml
  pleach get pods -l app=web -o wide -w
  pleach get nodes -o jsonpath='{.items[*].metadata.name}'`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.out, o.err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return o.run(cmd, l.client(), args)
		},
	}
	o.flags(cmd, true)
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "wide, yaml, json, name or jsonpath=TEMPLATE")
	f.StringVarP(&o.selector, "selector", "l", "", "a label selector: app=web,tier!=db")
	f.BoolVarP(&o.watch, "watch", "w", false, "go on and print every change")
	f.BoolVar(&o.noHeaders, "no-headers", false, "leave the columns' names out")
	f.BoolVar(&o.showLabels, "show-labels", false, "add a column with all labels")
	f.StringSliceVarP(&o.labels, "label-columns", "L", nil, "add a column for each of these labels")
	return cmd
}

func (o *getOptions) run(cmd *cobra.Command, c *api.Client, args []string) error {
	targets, err := parseTargets(args)
	if err != nil {
		return err
	}
	if err := checkSelector(o.selector); err != nil {
		return err
	}
	if o.selector != "" && targets[0].name != "" {
		return usageError{fmt.Errorf("a name and a selector cannot be given together")}
	}
	o.wide, o.withNamespace = o.output == "wide", o.all
	show, err := objectPrinter(o.output)
	if err != nil {
		return err
	}
	if o.watch {
		if len(targets) > 1 {
			return usageError{fmt.Errorf("--watch follows one kind, or one object, at a time")}
		}
		return o.follow(cmd, c, targets[0], show)
	}
	found, err := o.collect(cmd, c, targets)
	if err != nil {
		return err
	}
	if show == nil {
		return o.printTables(found, targets)
	}
	var objects []reconcile.K8sObject
	for _, f := range found {
		objects = append(objects, f.objects...)
	}
	o.sayRedacted(objects)
	if len(objects) == 1 && len(targets) == 1 && targets[0].name != "" {
		return show(objects[0], o.out)
	}
	if o.output == "name" {
		for _, object := range objects {
			if err := show(object, o.out); err != nil {
				return err
			}
		}
		return nil
	}
	list := &corev1.List{}
	list.APIVersion, list.Kind = "v1", "List"
	list.Items = []runtime.RawExtension{}
	for _, object := range objects {
		list.Items = append(list.Items, runtime.RawExtension{Object: object})
	}
	return show(list, o.out)
}

// group is what was found of one kind.
type group struct {
	kind    api.Kind
	objects []reconcile.K8sObject
}

func (o *getOptions) collect(cmd *cobra.Command, c *api.Client, targets []target) ([]group, error) {
	var found []group
	for _, t := range targets {
		if t.name != "" && o.all {
			return nil, usageError{fmt.Errorf("a name cannot be looked up in all namespaces")}
		}
		objects, err := c.List(cmd.Context(), t.kind, api.ListOptions{Namespace: o.of(t.kind), Name: t.name, Selector: o.selector})
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(found, func(g group) bool { return g.kind.Kind == t.kind.Kind })
		if i < 0 {
			found = append(found, group{kind: t.kind})
			i = len(found) - 1
		}
		found[i].objects = append(found[i].objects, objects...)
	}
	return found, nil
}

func (o *getOptions) printTables(found []group, targets []target) error {
	options := o.tableOptions
	options.withKind = len(found) > 1
	printed := false
	for _, g := range found {
		if len(g.objects) == 0 {
			continue
		}
		if printed {
			if _, err := fmt.Fprintln(o.out); err != nil {
				return err
			}
		}
		if err := newTables(g.kind, options).print(o.out, g.objects); err != nil {
			return err
		}
		printed = true
	}
	if !printed {
		o.sayNothingFound(targets)
	}
	return nil
}

func (o *getOptions) sayNothingFound(targets []target) {
	text := "No resources found"
	if !o.all && slices.ContainsFunc(targets, func(t target) bool { return t.kind.Namespaced }) {
		text += fmt.Sprintf(" in %s namespace.", o.namespace)
	}
	fmt.Fprintln(o.err, text)
}

func (o *getOptions) sayRedacted(objects []reconcile.K8sObject) {
	if slices.ContainsFunc(objects, func(o reconcile.K8sObject) bool { _, ok := o.(*corev1.Secret); return ok }) {
		fmt.Fprintf(o.err, "pleach: the values of secrets are left out; the annotation %s holds their sizes in bytes\n", api.RedactedAnnotation)
	}
}

// follow prints what is there, then every change.
func (o *getOptions) follow(cmd *cobra.Command, c *api.Client, t target, show printFunc) error {
	tables := newTables(t.kind, o.tableOptions)
	w := printers.GetNewTabWriter(o.out) // remembers the columns' widths
	var initial []reconcile.K8sObject
	begun := false
	options := api.ListOptions{Namespace: o.of(t.kind), Name: t.name, Selector: o.selector}
	return c.Watch(cmd.Context(), t.kind, options, func(event watch.EventType, object reconcile.K8sObject) error {
		switch {
		case event == watch.Bookmark:
			begun = true
			if show != nil || len(initial) == 0 {
				return nil
			}
			if err := tables.print(w, initial); err != nil {
				return err
			}
			return w.Flush()
		case show != nil:
			return show(object, o.out)
		case !begun:
			initial = append(initial, object)
			return nil
		}
		if err := tables.print(w, []reconcile.K8sObject{object}); err != nil {
			return err
		}
		return w.Flush()
	})
}

type printFunc func(runtime.Object, io.Writer) error

// objectPrinter returns what -o asks for; nil for tables.
func objectPrinter(output string) (printFunc, error) {
	format, template, _ := strings.Cut(output, "=")
	switch format {
	case "", "wide":
		return nil, nil
	case "json":
		return (&printers.JSONPrinter{}).PrintObj, nil
	case "yaml":
		return (&printers.YAMLPrinter{}).PrintObj, nil
	case "name":
		return (&printers.NamePrinter{}).PrintObj, nil
	case "jsonpath":
		printer, err := printers.NewJSONPathPrinter(template)
		if err != nil {
			return nil, usageError{fmt.Errorf("--output %s: %w", output, err)}
		}
		return func(o runtime.Object, w io.Writer) error {
			// as the plain JSON that the template was written for
			body, err := json.Marshal(o)
			if err != nil {
				return err
			}
			plain := &unstructured.Unstructured{}
			if err := json.Unmarshal(body, &plain.Object); err != nil {
				return err
			}
			return printer.PrintObj(plain, w)
		}, nil
	}
	return nil, usageError{fmt.Errorf("--output %s: want wide, yaml, json, name or jsonpath=TEMPLATE", output)}
}
