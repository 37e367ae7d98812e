package gitsync

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// find returns an accepted object by "app/name".
func (s *story) find(name string) reconcile.Object {
	s.t.Helper()
	app, object, _ := strings.Cut(name, "/")
	for _, a := range s.syncer.Accepted().Apps {
		for _, o := range a.Objects {
			if a.Name == app && o.Object.GetName() == object {
				return o
			}
		}
	}
	s.t.Fatalf("no object %s in:\n%s", name, s.outcome())
	return reconcile.Object{}
}

// about is what history says of an object: "g2 at LABEL, REV@LABEL …" where REV is the image's tag.
func (s *story) about(o reconcile.Object) string {
	var templates []string
	for _, t := range o.Templates {
		_, tag, _ := strings.Cut(t.Spec.Spec.Containers[0].Image, ":")
		templates = append(templates, tag+"@"+s.labels[t.Commit.ID])
	}
	return fmt.Sprintf("g%d at %s, %s", o.Object.GetGeneration(), s.labels[o.Commit.ID], strings.Join(templates, " "))
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, script, object, want string
	}{
		{"first version", "start ada start\npush start", "web/web", "g1 at start, 1@start"},
		{"other commits change nothing", "start ada start\ntwo ada shop=2\npush two", "web/web", "g1 at start, 1@start"},
		{"a comment changes nothing", "start ada start\ntwo ada file:apps/web/web.yaml=#_hello;" + word(deployment("web", "1")) + "\npush two", "web/web", "g1 at start, 1@start"},
		{"a new template", "start ada start\ntwo ada web=2\npush two", "web/web", "g2 at two, 2@two 1@start"},
		{
			"a template that returns", "start ada start\ntwo ada web=2\nthree ada web=3\nback ada web=2\npush back", "web/web",
			"g4 at back, 2@back 3@three 1@start",
		},
		{"refused commits leave nothing", "start ada start\ntwo eve web=2\nthree ada web=3\npush three", "web/web", "g2 at three, 3@three 1@start"},
		{
			"labels are not the spec", "start ada start\ntwo ada file:apps/web/web.yaml=" +
				word(strings.Replace(deployment("web", "1"), "name: web\n", "name: web\n  labels: {a: b}\n", 1)) + "\npush two",
			"web/web", "g1 at two, 1@start",
		},
		{
			"replicas are no new template", "start ada start\ntwo ada file:apps/web/web.yaml=" +
				word(strings.Replace(deployment("web", "1"), "spec:\n", "spec:\n  replicas: 3\n", 1)) + "\npush two",
			"web/web", "g2 at two, 1@start",
		},
		{
			"revisionHistoryLimit", "start ada start\ntwo ada web=2\nthree ada file:apps/web/web.yaml=" +
				word(strings.Replace(deployment("web", "3"), "spec:\n", "spec:\n  revisionHistoryLimit: 1\n", 1)) + "\npush three",
			"web/web", "g3 at three, 3@three 2@two",
		},
		{
			"ten earlier templates", "start ada start\na ada web=2\nb ada web=3\nc ada web=4\nd ada web=5\ne ada web=6\nf ada web=7\n" +
				"g ada web=8\nh ada web=9\ni ada web=10\nj ada web=11\nk ada web=12\npush k",
			"web/web", "g12 at k, 12@k 11@j 10@i 9@h 8@g 7@f 6@e 5@d 4@c 3@b 2@a",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if testing.Short() && strings.Count(tc.script, "\n") > 10 {
				t.Skip("takes seconds")
			}
			t.Parallel()
			s := newStory(t)
			s.run(tc.script)
			if got := s.about(s.find(tc.object)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			s.restarted()
			if got := s.about(s.find(tc.object)); got != tc.want {
				t.Errorf("after a restart: got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// word writes a text as one word of a script.
func word(text string) string { return strings.NewReplacer(" ", "_", "\n", ";").Replace(text) }

func TestUIDs(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start web/a=1\npush start")
	first := s.find("web/a")
	if want := objectUID("test", "Deployment.apps default/a", s.ids["start"]); first.Object.GetUID() != want {
		t.Errorf("uid %s, want %s", first.Object.GetUID(), want)
	}
	s.run("two ada web/a=2\npush two")
	if got := s.find("web/a").Object.GetUID(); got != first.Object.GetUID() {
		t.Errorf("uid after a change: %s, want %s", got, first.Object.GetUID())
	}
	s.run("move ada -web/a shop/a=2\npush move")
	if got := s.find("shop/a").Object.GetUID(); got != first.Object.GetUID() {
		t.Errorf("uid in another app: %s, want %s", got, first.Object.GetUID())
	}
	if got, want := s.about(s.find("shop/a")), "g2 at two, 2@two 1@start"; got != want {
		t.Errorf("in another app: got %s, want %s", got, want)
	}
	s.run("gone ada -shop/a\npush gone\nagain ada shop/a=2\npush again")
	if got := s.find("shop/a").Object.GetUID(); got == first.Object.GetUID() {
		t.Errorf("uid of an object that was deleted and added again is still %s", got)
	}
	seen := map[types.UID]bool{}
	for _, a := range s.syncer.Accepted().Apps {
		for _, o := range a.Objects {
			if seen[o.Object.GetUID()] {
				t.Errorf("uid %s twice", o.Object.GetUID())
			}
			seen[o.Object.GetUID()] = true
		}
	}
}

// A merge that a teammate's git pull makes must not give new uids to what runs, whether a node has
// seen the side that was pulled or not.
func TestUIDsAcrossMerges(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\nmine ada web/a=1\npush mine")
	uid := s.find("web/a").Object.GetUID()
	s.run("theirs bob on start shop=2\npulled bob on theirs+mine web/a=1\npush pulled")
	s.expect("head pulled\ncluster pulled\nshop pulled shop=2\nweb pulled a=1 web=1")
	if got := s.find("web/a").Object.GetUID(); got != uid {
		t.Errorf("uid after the merge is %s, want %s", got, uid)
	}
	a, err := s.fresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := jsonOf(t, a), jsonOf(t, s.syncer.Accepted()); got != want {
		t.Errorf("a node that starts now has:\n%s\nwant:\n%s", got, want)
	}
}

func TestSamePointer(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\npush start")
	before := s.syncer.Accepted()
	shop := before.Apps[slices.IndexFunc(before.Apps, func(a App) bool { return a.Name == "shop" })].Objects[0].Object
	s.sync()
	if s.syncer.Accepted() != before {
		t.Error("a Sync that found nothing new made a new Accepted")
	}
	s.run("two ada web=2\npush two")
	if s.find("shop/shop").Object != shop {
		t.Error("an object that nobody changed was made anew")
	}
}
