package gitstore

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// maxCommitBytes bounds a commit object; git's own are below 2 KiB.
const maxCommitBytes = 1 << 20

// Commit is a commit object that passed the strict parser.
type Commit struct {
	ID        string // full hex object id, as are Tree and Parents
	Tree      string
	Parents   []string // in the commit's order
	Author    Ident
	Committer Ident
	Message   string // as it is, to its last newline
	Signature string // armoured; "" when there is none
	// Payload is what the signature covers: the raw object without its gpgsig header.
	Payload []byte
	// Level is the generation number; see [Store.Level]. It is 0 for a tip without its history.
	Level int64
}

// Subject is the first line of the message.
func (c *Commit) Subject() string {
	first, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n")
	return first
}

// Ident is who a commit claims made it, and when. It proves nothing.
type Ident struct {
	Name, Mail string
	When       time.Time // UTC, seconds
}

// String is "Name <mail>".
func (i Ident) String() string { return fmt.Sprintf("%s <%s>", i.Name, i.Mail) }

// Commit reads a commit from its raw bytes. It errors with an [*ObjectError] for a commit that git
// and other readers could understand differently, or that is not in the store.
func (s *Store) Commit(id string) (*Commit, error) {
	h, err := parseID(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.commitLocked(h)
	if err != nil {
		return nil, err
	}
	c.Level, err = s.levelLocked(h)
	if oe, ok := errors.AsType[*ObjectError](err); ok && oe.Missing {
		return c, nil // fetched by FetchTip; Fetch makes sure of the history
	}
	return c, err
}

func (s *Store) commitLocked(id plumbing.Hash) (*Commit, error) {
	raw, err := s.rawLocked(id, plumbing.CommitObject)
	if err != nil {
		return nil, err
	}
	c, reason := parseCommit(raw)
	if reason != "" {
		return nil, &ObjectError{ID: id.String(), Reason: reason}
	}
	c.ID = id.String()
	return c, nil
}

// parseCommit reads a commit object, or says what is wrong with it. It takes less than git does:
// tree, parents, author and committer once and in this order, then other headers, of which encoding
// and gpgsig may occur once. That leaves no room for a commit whose signed half and shown half differ.
func parseCommit(raw []byte) (c *Commit, reason string) {
	if len(raw) > maxCommitBytes {
		return nil, fmt.Sprintf("is a commit of %d bytes, more than the limit of %d", len(raw), maxCommitBytes)
	}
	if bytes.IndexByte(raw, 0) >= 0 {
		return nil, "has a NUL byte"
	}
	head, message, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		// git writes the empty line also where there is no message
		return nil, "has no empty line after its headers"
	}
	p := headerParser{rest: append(bytes.Clone(head), '\n')}
	c = &Commit{Message: string(message)}
	if c.Tree, reason = p.id("tree"); reason != "" {
		return nil, reason
	}
	for p.at("parent") {
		parent, reason := p.id("parent")
		if reason != "" {
			return nil, reason
		}
		c.Parents = append(c.Parents, parent)
	}
	if c.Author, reason = p.ident("author"); reason != "" {
		return nil, reason
	}
	if c.Committer, reason = p.ident("committer"); reason != "" {
		return nil, reason
	}
	payload := bytes.Clone(raw[:len(head)+1-len(p.rest)])
	seen := map[string]bool{}
	for len(p.rest) > 0 {
		name, value, lines, reason := p.extra()
		if reason != "" {
			return nil, reason
		}
		switch name {
		case "tree", "parent", "author", "committer":
			return nil, fmt.Sprintf("has the header %q a second time or out of order", name)
		case "gpgsig-sha256":
			return nil, "has a gpgsig-sha256 header, which is not supported"
		case "mergetag": // one for each signed tag that was merged
		default:
			if seen[name] {
				return nil, fmt.Sprintf("has the header %q a second time", name)
			}
		}
		seen[name] = true
		if name == "gpgsig" {
			if value == "" {
				return nil, "has an empty gpgsig header"
			}
			c.Signature = value
			continue
		}
		payload = append(payload, lines...)
	}
	c.Payload = append(append(payload, '\n'), message...)
	return c, ""
}

type headerParser struct{ rest []byte } // whole lines

func (p *headerParser) at(name string) bool {
	return bytes.HasPrefix(p.rest, []byte(name+" "))
}

// line takes the next line, which must be the named header.
func (p *headerParser) line(name string) (string, string) {
	if !p.at(name) {
		return "", fmt.Sprintf("lacks the header %q where it belongs", name)
	}
	line, rest, _ := bytes.Cut(p.rest, []byte("\n"))
	p.rest = rest
	if len(rest) > 0 && rest[0] == ' ' {
		return "", fmt.Sprintf("continues the header %q on a second line", name)
	}
	return string(line[len(name)+1:]), ""
}

func (p *headerParser) id(name string) (string, string) {
	value, reason := p.line(name)
	if reason != "" {
		return "", reason
	}
	if _, err := parseID(value); err != nil {
		return "", fmt.Sprintf("has a malformed object id in the header %q", name)
	}
	return value, ""
}

func (p *headerParser) ident(name string) (Ident, string) {
	value, reason := p.line(name)
	if reason != "" {
		return Ident{}, reason
	}
	i, ok := parseIdent(value)
	if !ok {
		return Ident{}, fmt.Sprintf("has a malformed header %q: want \"Name <mail> seconds +zone\"", name)
	}
	return i, ""
}

// extra takes the next header with its continuation lines. lines is what stands in the object.
func (p *headerParser) extra() (name, value string, lines []byte, reason string) {
	end := 0
	for {
		n := bytes.IndexByte(p.rest[end:], '\n')
		end += n + 1
		if end >= len(p.rest) || p.rest[end] != ' ' {
			break
		}
	}
	lines, p.rest = p.rest[:end], p.rest[end:]
	first, more, _ := strings.Cut(string(lines), "\n")
	name, value, ok := strings.Cut(first, " ")
	if !ok || !headerName(name) {
		return "", "", nil, fmt.Sprintf("has a malformed header %.40q", first)
	}
	for line := range strings.Lines(more) {
		value += "\n" + strings.TrimSuffix(line[1:], "\n")
	}
	return name, value, lines, ""
}

func headerName(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return s != ""
}

func parseIdent(s string) (Ident, bool) {
	name, rest, ok := strings.Cut(s, " <")
	if !ok { // git leaves an empty name out
		if rest, ok = strings.CutPrefix(s, "<"); !ok {
			return Ident{}, false
		}
		name = ""
	}
	mail, rest, ok := strings.Cut(rest, "> ")
	seconds, zone, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || strings.ContainsAny(name+mail, "<>\r") {
		return Ident{}, false
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 0 || n > 1<<40 || strconv.FormatInt(n, 10) != seconds {
		return Ident{}, false
	}
	if len(zone) != 5 || (zone[0] != '+' && zone[0] != '-') || strings.Trim(zone[1:], "0123456789") != "" {
		return Ident{}, false
	}
	return Ident{Name: name, Mail: mail, When: time.Unix(n, 0).UTC()}, true
}
