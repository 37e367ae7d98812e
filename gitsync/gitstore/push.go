package gitstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
)

const (
	pushTimeout   = 2 * time.Minute
	settleTimeout = 15 * time.Second
	// A server refuses an update that loses the race before the winner's is to be seen.
	settleTries = 10
	settlePause = 100 * time.Millisecond
)

// Update is one ref to move.
type Update struct {
	Name string // "refs/heads/pleach/status"
	Old  string // where it must be; "" when it must not exist
	New  string // where it goes; "" deletes it
}

// Push sends exactly the named objects and moves all the refs, or none. It compares and swaps: the
// server moves a ref only from Old, so that of all who push at once one wins and the others get
// [ErrLostRace]. A refusal for any other reason is a [*RejectedError]; [ErrUnreachable] means that
// the refs did not move, or that nobody can say: the next Push from the same Old finds out.
//
// The history is never walked: what the remote lacks is for the caller to know.
func (s *Store) Push(ctx context.Context, r Remote, updates []Update, objects []string) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	pack, err := s.encodePack(objects)
	if err != nil {
		return err
	}
	err = s.receivePack(ctx, r, updates, pack)
	if err == nil || errors.Is(err, ErrLostRace) {
		return err
	}
	_, refused := errors.AsType[*RejectedError](err)
	if !refused && !errors.Is(err, ErrUnreachable) && ctx.Err() == nil {
		return err // nothing was sent
	}
	return s.settle(ctx, r, updates, err)
}

func (s *Store) encodePack(objects []string) ([]byte, error) {
	hashes := make([]plumbing.Hash, len(objects))
	for i, id := range objects {
		var err error
		if hashes[i], err = parseID(id); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var pack bytes.Buffer
	if _, err := packfile.NewEncoder(&pack, s.objects, false).Encode(hashes, 0); err != nil {
		return nil, fmt.Errorf("git store: pack: %w", err)
	}
	return pack.Bytes(), nil
}

func (s *Store) receivePack(ctx context.Context, r Remote, updates []Update, pack []byte) error {
	l, err := r.parse()
	if err != nil {
		return err
	}
	var commands []*packp.Command
	deletesOnly := true
	for _, u := range updates {
		if err := checkRef(u.Name); err != nil {
			return err
		}
		c := &packp.Command{Name: plumbing.ReferenceName(u.Name)}
		for _, side := range []struct {
			id string
			to *plumbing.Hash
		}{{u.Old, &c.Old}, {u.New, &c.New}} {
			if side.id == "" {
				continue
			}
			if *side.to, err = parseID(side.id); err != nil {
				return err
			}
		}
		deletesOnly = deletesOnly && u.New == ""
		commands = append(commands, c)
	}
	client, ep, auth, err := l.transport(maxRefsBytes)
	if err != nil {
		return err
	}
	session, err := client.NewReceivePackSession(ep, auth)
	if err != nil {
		return unreachable(r, "push to", err)
	}
	defer func() { _ = session.Close() }() // the report has been read
	adv, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return unreachable(r, "push to", err)
	}
	for _, c := range commands {
		if at := adv.References[c.Name.String()]; at != c.Old {
			return fmt.Errorf("push %s to %s: %w", c.Name, r, ErrLostRace)
		}
	}
	req := packp.NewReferenceUpdateRequestFromCapabilities(adv.Capabilities)
	req.Commands = commands
	var said words
	req.Progress = &said
	want := []capability.Capability{capability.Sideband64k}
	if len(commands) > 1 {
		if !adv.Capabilities.Supports(capability.Atomic) {
			return &RejectedError{Ref: updates[0].Name, Reason: "the server cannot move several refs in one step"}
		}
		want = append(want, capability.Atomic)
	}
	for _, c := range want {
		if adv.Capabilities.Supports(c) {
			if err := req.Capabilities.Set(c); err != nil {
				return err
			}
		}
	}
	if !deletesOnly {
		req.Packfile = io.NopCloser(bytes.NewReader(pack))
	}
	report, err := session.ReceivePack(ctx, req)
	if report == nil {
		if err == nil {
			err = errors.New("server ended without a report")
		}
		return unreachable(r, "push to", err)
	}
	for _, status := range report.CommandStatuses {
		if status.Error() != nil {
			return &RejectedError{Ref: status.ReferenceName.String(), Reason: said.after(status.Status)}
		}
	}
	if err := report.Error(); err != nil {
		return &RejectedError{Ref: updates[0].Name, Reason: said.after(err.Error())}
	}
	if err != nil {
		return unreachable(r, "push to", err)
	}
	return nil
}

// settle finds out what became of a push that did not report success: servers word a lost race in
// many ways, and an answer may be lost after the refs have moved. What counts is where they are.
func (s *Store) settle(ctx context.Context, r Remote, updates []Update, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	names := make([]string, len(updates))
	for i, u := range updates {
		names[i] = u.Name
	}
	for try := 0; ; try++ {
		refs, err := s.Refs(ctx, r, names...)
		if err != nil {
			if errors.Is(cause, ErrUnreachable) {
				return cause
			}
			return unreachable(r, "push to", errors.Join(cause, err))
		}
		arrived, moved := true, ""
		for _, u := range updates {
			arrived = arrived && refs[u.Name] == u.New
			if refs[u.Name] != u.Old {
				moved = u.Name
			}
		}
		switch {
		case arrived:
			return nil
		case moved != "":
			return fmt.Errorf("push %s to %s: %w", moved, r, ErrLostRace)
		case !mayBeRace(cause) || try == settleTries:
			return cause
		}
		select {
		case <-ctx.Done():
			return cause
		case <-time.After(settlePause):
		}
	}
}

// mayBeRace recognises the wordings that git, and forges after it, use for a ref that is being
// updated by somebody else, but for other troubles too.
func mayBeRace(err error) bool {
	rejected, ok := errors.AsType[*RejectedError](err)
	if !ok {
		return false
	}
	for _, word := range []string{
		"failed to update ref", "lock", "atomic", "fetch first", "non-fast-forward", "stale",
		"already exists", "expected", "old value",
	} {
		if strings.Contains(rejected.Reason, word) {
			return true
		}
	}
	return false
}

// words collects what the server says beside its report: the reason behind "hook declined".
type words struct{ text strings.Builder }

func (w *words) Write(p []byte) (int, error) {
	if w.text.Len() < 2<<10 {
		w.text.Write(p)
	}
	return len(p), nil
}

func (w *words) after(status string) string {
	said := strings.Join(strings.Fields(strings.ToValidUTF8(w.text.String(), "")), " ")
	if said == "" {
		return status
	}
	return fmt.Sprintf("%s (%s)", status, said)
}
