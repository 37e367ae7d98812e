package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/pleachdev/pleach/reconcile"
)

// describe reads the file that --nodes names; "-" is the standard input.
func (p *prospect) describe(file string) error {
	data, err := []byte(nil), error(nil)
	if file == "-" {
		data, err = io.ReadAll(os.Stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("--nodes: %w", err)
	}
	p.origin = file
	return p.read("--nodes "+file, data)
}

// read takes in YAML or JSON documents: Nodes and Pods as "pleach get" prints them, alone or in
// Lists, and NodeDocuments as they stand on the status branch.
func (p *prospect) read(where string, data []byte) error {
	var pods []*corev1.Pod
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var raw runtime.RawExtension
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && len(bytes.TrimSpace(raw.Raw)) > 0 && !bytes.Equal(raw.Raw, []byte("null")) {
			err = p.take(raw.Raw, &pods)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	if len(pods) > 0 {
		p.fill(pods)
	}
	return nil
}

func (p *prospect) take(raw []byte, pods *[]*corev1.Pod) error {
	var kind struct {
		metav1.TypeMeta
		Items []runtime.RawExtension `json:"items"`
	}
	if err := yaml.Unmarshal(raw, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "List", "NodeList", "PodList":
		for _, item := range kind.Items {
			if err := p.take(item.Raw, pods); err != nil {
				return err
			}
		}
		return nil
	case "Node":
		n := &corev1.Node{}
		if err := yaml.Unmarshal(raw, n); err != nil {
			return err
		}
		p.described[n.Name] = n
		return nil
	case "Pod":
		pod := &corev1.Pod{}
		if err := yaml.Unmarshal(raw, pod); err != nil {
			return err
		}
		*pods = append(*pods, pod)
		return nil
	case "NodeDocument":
		var d reconcile.Document
		if err := yaml.Unmarshal(raw, &d); err != nil {
			return err
		}
		p.documents = append(p.documents, d)
		return nil
	}
	return fmt.Errorf("kind %q: want Nodes, Pods, Lists of them, or NodeDocuments", kind.Kind)
}

// fill makes the documents of described nodes from their pods.
func (p *prospect) fill(pods []*corev1.Pod) {
	foreign := 0
	runs := map[string][]reconcile.Instance{}
	for _, pod := range pods {
		m, err := reconcile.ObservedInstance(pod)
		if err != nil {
			foreign++
			continue
		}
		runs[m.Node] = append(runs[m.Node], m)
	}
	if foreign > 0 {
		p.note("%s not started by Pleach, and left out", count(foreign, "pod"))
	}
	for name := range runs {
		if p.described[name] == nil {
			p.described[name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		}
	}
	for name, n := range p.described {
		d := reconcile.Document{Node: name, Boot: 1, Allocatable: n.Status.Allocatable, Instances: runs[name]}
		for _, m := range d.Instances {
			d.Boot = max(d.Boot, m.Boot)
		}
		p.documents = append(p.documents, d)
	}
	slices.SortFunc(p.documents, func(a, b reconcile.Document) int { return cmp.Compare(a.Node, b.Node) })
}
