package main

import (
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generate "k8s.io/kubernetes/pkg/printers"
	internal "k8s.io/kubernetes/pkg/printers/internalversion"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
)

// tables prints objects as kubectl does: with the columns that Kubernetes' own API server makes.
type tables struct {
	generator *generate.HumanReadableGenerator
	wide      bool
	printer   printers.ResourcePrinter
}

type tableOptions struct {
	wide, noHeaders, withNamespace, withKind, showLabels bool
	labels                                               []string // shown as columns
}

func newTables(k api.Kind, o tableOptions) *tables {
	return &tables{
		generator: generate.NewTableGenerator().With(internal.AddHandlers),
		wide:      o.wide,
		printer: printers.NewTablePrinter(printers.PrintOptions{
			NoHeaders: o.noHeaders, WithNamespace: o.withNamespace && k.Namespaced, WithKind: o.withKind, Wide: o.wide,
			ShowLabels: o.showLabels, ColumnLabels: o.labels, Kind: schema.GroupKind{Group: k.Group, Kind: k.Kind},
		}),
	}
}

// print writes one table. Headers are written once, however often it is called.
func (t *tables) print(w io.Writer, objects []reconcile.K8sObject) error {
	all := &metav1.Table{}
	for _, o := range objects {
		one, err := t.table(o)
		if err != nil {
			return fmt.Errorf("%s %s/%s: %w", o.GetObjectKind().GroupVersionKind().Kind, o.GetNamespace(), o.GetName(), err)
		}
		all.ColumnDefinitions = one.ColumnDefinitions
		all.Rows = append(all.Rows, one.Rows...)
	}
	return t.printer.PrintObj(all, w)
}

func (t *tables) table(o reconcile.K8sObject) (*metav1.Table, error) {
	// the generators know the internal versions alone
	converted, err := legacyscheme.Scheme.ConvertToVersion(o, runtime.InternalGroupVersioner)
	if err != nil {
		return nil, err
	}
	return t.generator.GenerateTable(converted, generate.GenerateOptions{Wide: t.wide})
}
