package gitsync

import (
	"strings"
	"testing"

	"github.com/pleachdev/pleach/gitsync/trust"
)

// onlyAda is a Judge by whom bob may change what is in no list, and ada everything.
type onlyAda []string

func (o onlyAda) Judge(by trust.Identity, c Change) string {
	if by.Principals[0] == "ada@example.com" {
		return ""
	}
	for _, what := range o {
		if app, object, _ := strings.Cut(what, ":"); app == c.App && (object == "*" || object == c.Object) {
			return "may not " + string(c.Verb) + " " + what
		}
	}
	return ""
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		judge  onlyAda
		script string
		want   string
	}{
		{"an object", onlyAda{"web:Deployment.apps default/web"}, `
			start ada start
			bad bob web=2 shop=2
			good bob web/db=1
			push good
		`, `
			head good
			cluster good
			shop good shop=2
			web start web=1
			refused bad web: bob@example.com (SHA256:…) may not update web:Deployment.apps default/web
			refused good web: Deployment.apps default/web is as the refused commit … left it…
		`},
		{"somebody who may mends it", onlyAda{"web:Deployment.apps default/web"}, `
			start ada start
			bad bob web=2
			good ada web=3
			push good
		`, `
			head good
			cluster good
			shop good shop=1
			web good web=3
		`},
		{"a file that an app reads", onlyAda{"web:"}, `
			start ada start file:apps/web/kustomization.yaml=resources:_[web.yaml];configMapGenerator:;-_name:_c;__options:_{disableNameSuffixHash:_true};__files:_[a.txt] file:apps/web/a.txt=1
			bad bob file:apps/web/a.txt=2
			good ada web=2
			push good
		`, `
			head good
			cluster good
			shop good shop=1
			web start c web=1
			refused bad web: bob@example.com (SHA256:…) may not update web:
			refused good web: …a… is as the refused commit … left it…
		`},
		{"an object while the app is broken", onlyAda{"web:Deployment.apps default/web"}, `
			start ada start
			bad bob web=2 web/db=kind:
			mend ada web/db=1
			push mend
		`, `
			head mend
			cluster mend
			shop mend shop=1
			web start web=1
			refused bad web: apps/web/db.yaml:1: …
			refused mend web: bob@example.com (SHA256:…) may not update web:Deployment.apps default/web
		`},
		{"an object in a commit with a symbolic link", onlyAda{"web:Deployment.apps default/web", "pleach.dev:trust/allowed_signers"}, `
			start ada start
			bad bob web=2 key+eve file:link=link:target
			mend ada file:link shop=2
			push mend
		`, `
			head mend
			cluster start
			shop mend shop=2
			web start web=1
			refused mend pleach.dev: bob@example.com (SHA256:…) may not update pleach.dev:trust/allowed_signers
			refused mend web: bob@example.com (SHA256:…) may not update web:Deployment.apps default/web
		`},
		{"trust", onlyAda{"pleach.dev:trust/allowed_signers"}, `
			start ada start
			bad bob key+eve web=2
			other ada file:nodes/README.md=hello
			theirs eve web=3
			push theirs
		`, `
			head other
			cluster start
			shop other shop=1
			web other web=2
			refused bad pleach.dev: bob@example.com (SHA256:…) may not update pleach.dev:trust/allowed_signers
			refused other pleach.dev: trust/allowed_signers is as the refused commit … left it…
			refused theirs web: signed by a key…
		`},
		{"the list of apps", onlyAda{"web:*"}, `
			start ada start
			bad bob app-web
			good bob shop=2
			push good
		`, `
			head good
			cluster start
			shop good shop=2
			web good web=1
			refused bad pleach.dev: bob@example.com (SHA256:…) may not delete web:*
		`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			s.judge = tc.judge
			s.run(tc.script)
			s.expect(tc.want)
			s.restarted()
		})
	}
}
