package gitsync

import (
	"strings"
	"testing"
)

// held is a Deployment that has what is not supported yet, as a word of a script.
func held(name, tag string) string {
	return word(deployment(name, tag) + `      volumes:
        - name: data
          nfs: {server: example.com, path: /}
`)
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	play(t, []tale{
		{name: "an honest mistake is mended by mending it alone", script: `
			start ada start
			oops ada web=2 web/db=kind:
			mend bob web/db=1
			push mend
		`, want: `
			head mend
			cluster mend
			shop mend shop=1
			web mend db=1 web=2
		`},
		{name: "broken YAML keeps one app and moves the other", script: `
			start ada start
			oops ada web=kind:;_-_[ shop=2
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=2
			web start web=1
			refused oops web: apps/web/web.yaml:…
		`},
		{name: "unknown field, wrong type and unknown kind are said at once", script: `
			start ada start
			oops ada web/db=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_db};dota:_{a:_b};immutable:_3 web/x=apiVersion:_v1;kind:_Nonsense;metadata:_{name:_x}
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start web=1
			refused oops web: apps/web/db.yaml:4: dota: unknown field, did you mean "data"?, and 2 more
		`},
		{name: "duplicate object", script: `
			start ada start
			oops ada file:apps/web/again.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_a};---;apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_a}
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start web=1
			refused oops web: apps/web/again.yaml:…: v1 ConfigMap default/a: is already in apps/web/again.yaml:1: keep one of them
		`},
		{name: "an object of another app", script: `
			start ada start
			oops ada file:apps/shop/thief.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_a} file:apps/web/a.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_b}
			next ada file:apps/web/thief.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_a}
			push next
		`, want: `
			head next
			cluster next
			shop next a shop=1
			web oops b web=1
			refused next web: apps/web/thief.yaml:1: v1 ConfigMap default/a: is an object of app "shop" already: remove it from one of the two
		`},
		{name: "an object moves to another app", script: `
			start ada start shop/a=1
			move ada -shop/a web/a=1
			push move
		`, want: `
			head move
			cluster move
			shop move shop=1
			web move a=1 web=1
		`},
		{name: "an object cannot be taken from an app that is broken", script: `
			start ada start shop/a=1
			move ada -shop/a web/a=1 shop/x=kind:
			push move
		`, want: `
			head move
			cluster move
			shop start a=1 shop=1
			web start web=1
			refused move shop: apps/shop/x.yaml:1: …
			refused move web: apps/web/a.yaml:1: apps/v1 Deployment default/a: is an object of app "shop" already…
		`},
		{name: "an immutable field", script: `
			start ada start file:apps/web/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_c};immutable:_true;data:_{a:_"1"}
			oops ada file:apps/web/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_c};immutable:_true;data:_{a:_"2"} web=2 shop=2
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=2
			web start c web=1
			refused oops web: apps/web/c.yaml:1: data: …immutable…
		`},
		{name: "an app is removed", script: `
			start ada start
			less ada app-web
			push less
		`, want: `
			head less
			cluster less
			shop less shop=1
		`},
		{name: "the folder of an app is removed", script: `
			start ada start
			oops ada -web/web
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start web=1
			refused oops web: apps/web: no such folder…
		`},
		{name: "pleach.yaml is removed", script: `
			start ada start
			oops ada file:pleach.yaml web=2
			push oops
		`, want: `
			head oops
			cluster start
			shop oops shop=1
			web oops web=2
			refused oops pleach.dev: pleach.yaml: …
		`},
		{name: "everybody is removed from the signers", script: `
			start ada start
			oops ada key-ada key-bob
			next ada web=2
			push next
		`, want: `
			head next
			cluster start
			shop next shop=1
			web next web=2
			refused oops pleach.dev: trust/allowed_signers: names nobody…
		`},
		{name: "a symbolic link", script: `
			start ada start
			oops ada file:apps/web/evil.yaml=link:../../../etc/passwd shop=2
			push oops
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused oops all: apps/web/evil.yaml: …symbolic link…
		`},
		{name: "a symbolic link is removed again", script: `
			start ada start
			oops ada file:apps/web/evil.yaml=link:../../../etc/passwd shop=2
			mend ada file:apps/web/evil.yaml
			push mend
		`, want: `
			head mend
			cluster mend
			shop mend shop=2
			web mend web=1
		`},
		{name: "a manifest of 3 MB", script: `
			start ada start
			oops ada web/big=` + strings.Repeat("#", 3<<20) + ` shop=2
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=2
			web start web=1
			refused oops web: apps/web/big.yaml: larger than 2 MiB: split the file
		`},
		{name: "a manifest of 20 MB", long: true, script: `
			start ada start
			oops ada web/big=` + strings.Repeat("#", 20<<20) + ` shop=2
			mend bob -web/big
			push oops
			push mend
		`, want: `
			head mend
			cluster mend
			shop mend shop=2
			web mend web=1
		`},
		{name: "an app outside of the repository", script: `
			start ada start
			oops ada file:pleach.yaml=` + word(strings.Replace(clusterYAML("shop", "web"), "apps/web", "../etc", 1)) + `
			push oops
		`, want: `
			head oops
			cluster start
			shop oops shop=1
			web oops web=1
			refused oops pleach.dev: pleach.yaml:…: spec.apps[1].path: want a folder inside the repository…
		`},
		{name: "what is not supported yet does not stop what runs", script: `
			start ada start web/db=3,4
			push start
			more ada web=2 web/db=` + held("db-0", "5") + word("---\n"+deployment("db-1", "6")) + `
			push more
			next bob shop=2 web/db=` + held("db-0", "7") + word("---\n"+deployment("db-1", "6")) + `
			push next
		`, want: `
			head next
			cluster next
			shop next shop=2
			web next db-0=3 db-1=6 web=2
			held web: apps/web/db.yaml:14: spec.template.spec.volumes[0].nfs: not supported yet; Pleach holds the object back, the rest of the app goes on; still running: the version of commit …
		`},
		{name: "what was never accepted is left out while it is not supported", script: `
			start ada start web/db=` + held("db", "3") + `
			next bob web=2
			push next
		`, want: `
			head next
			cluster next
			shop next shop=1
			web next web=2
			held web: apps/web/db.yaml:14: spec.template.spec.volumes[0].nfs: not supported yet; Pleach holds the object back, the rest of the app goes on
		`},
		{name: "what is held may change, and runs on from what ran", script: `
			start ada start web/db=3
			more ada web/db=` + held("db", "4") + `
			next bob web/db=5
			push next
		`, want: `
			head next
			cluster next
			shop next shop=1
			web next db=5 web=1
		`},
		{name: "what is held is deleted by deleting it", script: `
			start ada start web/db=3
			more ada web/db=` + held("db", "4") + `
			next bob -web/db
			push next
		`, want: `
			head next
			cluster next
			shop next shop=1
			web next web=1
		`},
		{name: "what is held is kept at a merge as on either side", script: `
			start ada start
			mine ada shop=2 web/db=3
			theirs bob on start web=2
			pulled bob on theirs+mine shop=2 web/db=` + held("db", "4") + `
			push pulled
		`, want: `
			head pulled
			cluster pulled
			shop pulled shop=2
			web pulled db=3 web=2
			held web: …; still running: the version of commit …
		`},
		{name: "another app may not take what is held", script: `
			start ada start web/db=3
			more ada web/db=` + held("db", "4") + `
			oops ada shop/db=5
			push oops
		`, want: `
			head oops
			cluster oops
			shop more shop=1
			web oops db=3 web=1
			refused oops shop: apps/shop/db.yaml:1: apps/v1 Deployment default/db: is an object of app "web" already…
			held web: …; still running: the version of commit …
		`},
		{name: "an object twice, once held", script: `
			start ada start web/db=3
			oops ada web/again=` + held("db", "3") + `
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start db=3 web=1
			refused oops web: apps/web/db.yaml:1: apps/v1 Deployment default/db: is already in apps/web/again.yaml:1: keep one of them
		`},
		{name: "a stranger's change of what is held", script: `
			start ada start web/db=3
			more ada web/db=` + held("db", "4") + `
			bad eve web/db=` + held("db", "9") + `
			next ada web=2
			push next
		`, want: `
			head next
			cluster next
			shop next shop=1
			web more db=3 web=1
			refused bad web: signed by a key…
			refused next web: Deployment.apps default/db is as the refused commit … left it…
			held web: …; still running: the version of commit …
		`},
		{name: "a remote kustomize base", script: `
			start ada start
			oops ada file:apps/web/kustomization.yaml=resources:_["https://example.com/base?ref=1"]
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start web=1
			refused oops web: apps/web/kustomization.yaml…
		`},
		{name: "a kustomize base outside of the repository", script: `
			start ada start
			oops ada file:apps/web/kustomization.yaml=resources:_[../../../etc]
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start web=1
			refused oops web: apps/web/kustomization.yaml…leaves the repository…
		`},
		{name: "a kustomize base that two apps use", script: `
			start ada start file:apps/web/kustomization.yaml=resources:_[web.yaml,_../../base] file:base/kustomization.yaml=resources:_[c.yaml] file:base/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_c}
			bad eve file:base/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_evil}
			good ada shop=2
			push good
		`, want: `
			head good
			cluster good
			shop good shop=2
			web start c web=1
			refused bad web: signed by a key…
		`},
		{name: "a kustomize base outside of the app's folder changes", script: `
			start ada start file:apps/web/kustomization.yaml=resources:_[web.yaml,_../../base] file:base/kustomization.yaml=resources:_[c.yaml] file:base/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_c}
			push start
			next bob file:base/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_d}
			push next
		`, want: `
			head next
			cluster next
			shop next shop=1
			web next d web=1
		`},
		{name: "a policy denies", script: `
			start ada start file:policies/tags.rego=package_pleach.admission;deny_contains_"no_nines"_if_endswith(input.object.spec.template.spec.containers[0].image,_":9")
			oops ada web=9 shop=2
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=2
			web start web=1
			refused oops web: apps/web/web.yaml:1: apps/v1 Deployment default/web: no nines (policies/tags.rego:2)
		`},
		{name: "a policy denies what removing an app would delete", script: `
			start ada start file:policies/keep.rego=package_pleach.admission;deny_contains_"is_kept"_if_{_input.operation_==_"DELETE";_input.oldObject.metadata.name_==_"web"_}
			oops ada app-web shop=2
			push oops
		`, want: `
			head oops
			cluster start
			shop oops shop=2
			web oops web=1
			refused oops pleach.dev: apps/web/web.yaml:1: apps/v1 Deployment default/web: is kept (policies/keep.rego:2)
		`},
		{name: "a policy lets an app be renamed", script: `
			start ada start file:policies/keep.rego=package_pleach.admission;deny_contains_"is_kept"_if_input.operation_==_"DELETE"
			name ada file:pleach.yaml=` + word(strings.Replace(clusterYAML("shop", "web"), "name: web", "name: internet", 1)) + `
			push name
		`, want: `
			head name
			cluster name
			internet name web=1
			shop name shop=1
		`},
		{name: "a policy does not judge the commit that brings it", script: `
			start ada start
			both ada web=9 file:policies/tags.rego=package_pleach.admission;deny_contains_"no_nines"_if_endswith(input.object.spec.template.spec.containers[0].image,_":9")
			oops ada shop=9
			push oops
		`, want: `
			head oops
			cluster oops
			shop both shop=1
			web oops web=9
			refused oops shop: …no nines (policies/tags.rego:2)
		`},
		{name: "a policy that does not compile", script: `
			start ada start
			oops ada web=2 file:policies/x.rego=package_pleach.admission;deny_contains
			push oops
		`, want: `
			head oops
			cluster start
			shop oops shop=1
			web oops web=2
			refused oops pleach.dev: policies/x.rego:2: …
		`},
		{name: "a policy without an end is no verdict", own: true, long: true, script: `
			start ada start file:policies/x.rego=package_pleach.admission;deny_contains_"x"_if_{;endswith(input.object.spec.template.spec.containers[0].image,_":2");count([1_|_some_i_in_numbers.range(1,_3000);_some_j_in_numbers.range(1,_3000)])_==_1;}
			oops ada web=2
			push oops
		`, want: `
			head oops
			cluster oops
			shop oops shop=1
			web start web=1
			refused oops web: the policies come to no verdict on apps/v1 Deployment default/web: …
		`},
		{name: "a version that no agent knows", script: `
			start ada start
			oops ada file:pleach.yaml=apiVersion:_pleach.dev/v1alpha1;kind:_Cluster;metadata:_{name:_test};spec:_{version:_2,_podCIDR:_10.64.0.0/16} web=2
			push oops
		`, want: `
			head oops
			cluster start
			shop oops shop=1
			web oops web=2
			refused oops pleach.dev: pleach.yaml:…spec.version: …
		`},
		{name: "another name for the cluster", script: `
			start ada start
			oops ada file:pleach.yaml=apiVersion:_pleach.dev/v1alpha1;kind:_Cluster;metadata:_{name:_best};spec:_{version:_1,_podCIDR:_10.64.0.0/16}
			push oops
		`, want: `
			head oops
			cluster start
			shop oops shop=1
			web oops web=1
			refused oops pleach.dev: pleach.yaml: metadata.name: is "test" for the cluster's whole life, got "best"
		`},
		{name: "the introduction is not in the branch", script: `
			start ada start
			other ada on other
			push other
		`, want: `
			error: branch "main" of … does not contain the introduction …
		`, own: true},
	})
}
