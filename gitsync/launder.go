package gitsync

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What a refused commit brought must not come in under the next honest one. So everything that a
// refused commit changed carries its mark, until somebody who may change it has done so:
//
//   - A path is marked by the refused commit that last changed it. The mark goes when a commit of a
//     known signer changes the path, when its content is again what it was before the mark, or when
//     the signed message of a later commit adopts the refused one by a trailer.
//   - An object is marked when it differs between the refused commit and the parent followed, and
//     cleared in the same three ways. Paths alone do not suffice, since a file can hold many objects.
//   - Where either of the two does not render, nobody can say which objects a refused commit changed.
//     Then all that differs from the accepted version when the app renders again is marked.
//
// An app is accepted only when nothing that differs from its accepted version is marked, and when it
// reads no marked path: a planted patch may change nothing today and another person's object
// tomorrow. Commits of known signers that were refused for other reasons, as for a typing error,
// leave no marks: their content was signed by somebody who may, so that a later commit mends
// them by mending the error alone.
//
// At a merge all this is done with the difference from the parent that is followed: who signs a
// merge answers for all that it brings to this side.

// adoptTrailer is the key of the trailer that adopts what a refused commit brought.
const adoptTrailer = "Pleach-Adopt"

// minAdopt is the least number of hex digits by which a trailer may name a commit.
const minAdopt = 7

// adopted lists the commits that the trailers of a message name: those in its last paragraph.
func adopted(message string) []string {
	message = strings.TrimRight(message, "\n")
	_, last, ok := cutLast(message, "\n\n")
	if !ok {
		return nil // a subject alone has no trailers
	}
	var names []string
	for line := range strings.Lines(last) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.ToLower(strings.TrimSpace(value))
		if ok && strings.EqualFold(key, adoptTrailer) && len(value) >= minAdopt {
			names = append(names, value)
		}
	}
	return names
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// adopt takes the marks of the named commits away.
func (p *position) adopt(names []string) {
	if len(names) == 0 {
		return
	}
	named := func(commit string) bool {
		return commit != "" && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(commit, n) })
	}
	byNamed := func(_ string, t taint) bool { return named(t.By) }
	maps.DeleteFunc(p.tainted, byNamed)
	if named(p.blind) {
		p.blind = ""
	}
	for name, u := range p.apps {
		u = u.clone()
		maps.DeleteFunc(u.files, byNamed)
		maps.DeleteFunc(u.tainted, func(_, by string) bool { return named(by) })
		if named(u.blind) {
			u.blind = ""
		}
		p.apps[name] = u
	}
}

// mark marks a path whose content was base and is now.
func (p *position) mark(path, base, now, by string) { mark(p.tainted, path, base, now, by) }

func mark(marks map[string]taint, path, base, now, by string) {
	if t, ok := marks[path]; ok {
		base = t.Base
	}
	if now == base {
		delete(marks, path)
		return
	}
	marks[path] = taint{By: by, Base: base}
}

// taintBy marks what a refused commit changed in the app, which rendered as before and now as r.
func (u *appUnit) taintBy(by string, before, r *rendering) {
	switch {
	case !r.ok():
		u.blind = by
		return
	case before == nil || before.ok():
		var was map[string]string
		if before != nil {
			was = before.digests
		}
		for _, k := range differing(was, r.digests) {
			u.taintObject(k, by)
		}
	default:
		for _, k := range u.unaccepted(r) {
			u.taintObject(k, by)
		}
		u.blind = ""
	}
	u.prune(r)
}

// clear takes the marks away from what a commit of a known signer changed, and returns the keys of
// the objects that the signer answers for: those that this commit changed as far as can be told.
func (u *appUnit) clear(before, r *rendering) []string {
	if !r.ok() {
		return nil
	}
	if before == nil || before.ok() {
		var was map[string]string
		if before != nil {
			was = before.digests
		}
		keys := differing(was, r.digests)
		for _, k := range keys {
			delete(u.tainted, k)
		}
		u.prune(r)
		return keys
	}
	keys := u.unaccepted(r)
	if u.blind != "" {
		for _, k := range keys {
			u.taintObject(k, u.blind)
		}
		u.blind = ""
	}
	u.prune(r)
	return keys
}

func (u *appUnit) taintObject(key, by string) {
	if u.tainted == nil {
		u.tainted = map[string]string{}
	}
	u.tainted[key] = by
}

// prune takes the marks away from objects that are again as accepted.
func (u *appUnit) prune(r *rendering) {
	differ := u.unaccepted(r)
	maps.DeleteFunc(u.tainted, func(k, _ string) bool { return !slices.Contains(differ, k) })
}

// unaccepted lists the keys of the objects in which r differs from the accepted version.
func (u *appUnit) unaccepted(r *rendering) []string {
	if u.accepted == nil {
		return differing(nil, r.digests)
	}
	return differing(u.accepted.digests, r.digests)
}

// laundered says which mark keeps r from being accepted, and of which commit it is; "" when none does.
func (u *appUnit) laundered(r *rendering, tainted map[string]taint) (reason, by string) {
	for _, k := range u.unaccepted(r) {
		if by, ok := u.tainted[k]; ok {
			return asLeft(k, by), by
		}
	}
	traces := []*rendering{r}
	if u.accepted != nil {
		traces = append(traces, u.accepted)
	}
	for _, t := range traces {
		for p := range t.trace.Paths() {
			if mark, ok := tainted[p]; ok {
				return asLeft(p, mark.By), mark.By
			}
			if mark, ok := u.files[p]; ok {
				return asLeft(p, mark.By), mark.By
			}
		}
	}
	return "", ""
}

func asLeft(what, by string) string {
	return fmt.Sprintf("%s is as the refused commit %.12s left it", what, by)
}
