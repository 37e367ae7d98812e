package gitsync

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// chapters writes a random script. With strangers there is one line of commits, some of which must be
// refused; without, there are merges as pull requests make them and as git pull makes them.
type chapters struct {
	rng       *rand.Rand
	strangers bool
	script    strings.Builder
	n         int
}

func (c *chapters) pick(words ...string) string { return words[c.rng.IntN(len(words))] }

func (c *chapters) label() string {
	c.n++
	return fmt.Sprintf("c%d", c.n)
}

// change is one word that a commit may do at any time.
func (c *chapters) change(broken bool) string {
	tag := c.rng.IntN(4)
	words := []string{
		fmt.Sprintf("web=%d", tag), fmt.Sprintf("shop=%d", tag), fmt.Sprintf("web/a=%d", tag), fmt.Sprintf("web/b=%d,%d", tag, c.rng.IntN(4)),
		"-web/a", "-web/b", "app+extra", "app-extra", fmt.Sprintf("extra/x=%d", tag),
		fmt.Sprintf("file:base/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_c};data:_{a:_\"%d\"}", tag),
		"file:README.md=" + fmt.Sprint(tag),
	}
	if broken {
		words = append(words, "web/b=kind:", "file:pleach.yaml=nonsense")
	}
	return c.pick(words...)
}

// commit writes a line with a few changes. An app is added and removed by writing pleach.yaml anew.
func (c *chapters) commit(on, by string, broken bool) string {
	l := c.label()
	changes := []string{c.change(broken)}
	for c.rng.IntN(2) == 0 {
		changes = append(changes, c.change(broken))
	}
	for i, w := range changes {
		switch w {
		case "app+extra":
			changes[i] = "file:pleach.yaml=" + word(clusterYAML("shop", "web", "extra"))
		case "app-extra":
			changes[i] = "file:pleach.yaml=" + word(clusterYAML("shop", "web"))
		}
	}
	fmt.Fprintf(&c.script, "%s %s on %s %s\n", l, by, on, strings.Join(changes, " "))
	return l
}

func (c *chapters) write(commits int) string {
	c.script.WriteString("start ada start extra/x=1 file:apps/shop/kustomization.yaml=resources:_[shop.yaml,_../../base] " +
		"file:base/kustomization.yaml=resources:_[c.yaml] file:base/c.yaml=apiVersion:_v1;kind:_ConfigMap;metadata:_{name:_c}\n")
	head := "start"
	for c.n < commits {
		switch {
		case c.strangers && c.rng.IntN(3) == 0:
			head = c.commit(head, c.pick("eve", "-", "ada!header", "ada!duplicate"), true)
		case c.strangers && c.n > 1 && c.rng.IntN(4) == 0:
			l := c.label()
			fmt.Fprintf(&c.script, "%s ada on %s adopt:c%d\n", l, head, 1+c.rng.IntN(c.n-1))
			head = l
		case !c.strangers && c.rng.IntN(3) == 0:
			head = c.merge(head)
		default:
			head = c.commit(head, c.pick("ada", "bob"), c.strangers)
		}
		if c.rng.IntN(2) == 0 {
			fmt.Fprintf(&c.script, "push %s\n", head)
		}
		if c.rng.IntN(6) == 0 {
			c.script.WriteString("restart\n")
		}
	}
	fmt.Fprintf(&c.script, "push %s\n", head)
	return c.script.String()
}

// merge lets two sides grow and joins them, in either order.
func (c *chapters) merge(base string) string {
	grow := func(by string) string {
		head := c.commit(base, by, false)
		for c.rng.IntN(2) == 0 {
			head = c.commit(head, by, false)
		}
		return head
	}
	side := grow("bob")
	head := grow("ada")
	if c.rng.IntN(2) == 0 {
		fmt.Fprintf(&c.script, "push %s\n", head)
	}
	sides := head + "+" + side
	if c.rng.IntN(2) == 0 {
		sides = side + "+" + head
	}
	l := c.label()
	fmt.Fprintf(&c.script, "%s ada on %s %s %s\n", l, sides, fmt.Sprintf("web/a=%d", c.rng.IntN(4)), fmt.Sprintf("shop=%d", c.rng.IntN(4)))
	return l
}

// A node that saw every push, one that was restarted now and then, and one that starts at the end
// believe the same, byte for byte.
func TestWarmAndFreshAgree(t *testing.T) {
	t.Parallel()
	seeds := uint64(10)
	if testing.Short() {
		seeds = 2 // one with strangers, one with merges
	}
	for seed := range seeds {
		strangers := seed%2 == 0
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			c := &chapters{rng: rand.New(rand.NewPCG(seed, 1)), strangers: strangers}
			script := c.write(14)
			s := newStory(t)
			s.run(script)
			a, err := s.fresh(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := jsonOf(t, a), jsonOf(t, s.syncer.Accepted()); got != want {
				t.Errorf("script:\n%s\na node that starts now has:\n%s\nthe other one:\n%s", script, s.show(a), s.outcome())
			}
			s.restarted()
		})
	}
}
