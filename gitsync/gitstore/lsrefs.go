package gitstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

const (
	agent       = "pleach"
	refsTimeout = 30 * time.Second
)

// checkRef keeps a name from a configuration from becoming something else in the protocol.
func checkRef(name string) error {
	if err := plumbing.ReferenceName(name).Validate(); err != nil || !strings.HasPrefix(name, "refs/") {
		return fmt.Errorf("ref %q: is not a full ref name such as refs/heads/main", name)
	}
	return nil
}

// dialects remembers which remotes speak protocol version 2, so that a poll is one request.
type dialects struct {
	mu sync.Mutex
	v2 map[string]bool
}

func (d *dialects) get(url string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.v2[url]
}

func (d *dialects) set(url string, v2 bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v2 == nil {
		d.v2 = map[string]bool{}
	}
	d.v2[url] = v2
}

// Refs asks the remote where the named refs ("refs/heads/main") point. A ref that the remote does
// not have is absent from the answer. It errors with [ErrUnreachable] when there is no answer.
//
// Over HTTP only the named refs travel (gitprotocol-v2, ls-refs): the answer's size does not grow
// with the remote's branches. A server without version 2 sends all of them.
func (s *Store) Refs(ctx context.Context, r Remote, names ...string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, refsTimeout)
	defer cancel()
	l, err := r.parse()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := checkRef(name); err != nil {
			return nil, err
		}
	}
	var all map[string]string
	if l.http() {
		all, err = s.httpRefs(ctx, l, names)
	} else {
		all, err = advertised(ctx, l)
	}
	if err != nil {
		return nil, unreachable(r, "read refs of", err)
	}
	refs := map[string]string{}
	for _, name := range names {
		if id, ok := all[name]; ok {
			if _, err := parseID(id); err != nil {
				return nil, unreachable(r, "read refs of", fmt.Errorf("%s: %w", name, err))
			}
			refs[name] = id
		}
	}
	return refs, nil
}

// advertised reads the refs by go-git's own session, which is protocol version 0.
func advertised(ctx context.Context, l location) (map[string]string, error) {
	client, ep, auth, err := l.transport(maxRefsBytes)
	if err != nil {
		return nil, err
	}
	session, err := client.NewUploadPackSession(ep, auth)
	if err != nil {
		return nil, err
	}
	defer func() { _ = session.Close() }() // the answer has been read
	adv, err := session.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return advertisedRefs(adv), nil
}

func advertisedRefs(adv *packp.AdvRefs) map[string]string {
	refs := make(map[string]string, len(adv.References))
	for name, id := range adv.References {
		refs[name] = id.String()
	}
	return refs
}

func (s *Store) httpRefs(ctx context.Context, l location, names []string) (map[string]string, error) {
	client := l.httpClient(maxRefsBytes)
	base := strings.TrimSuffix(l.url.String(), "/")
	if !s.dialects.get(base) {
		refs, v2, err := discover(ctx, client, l, base)
		if err != nil || !v2 {
			return refs, err
		}
		s.dialects.set(base, true)
	}
	refs, err := lsRefs(ctx, client, l, base, names)
	if err != nil {
		s.dialects.set(base, false) // the server may have been replaced by an older one
	}
	return refs, err
}

// discover asks which protocol the server speaks. A server that does not know version 2 answers
// with its refs at once.
func discover(ctx context.Context, client *http.Client, l location, base string) (refs map[string]string, v2 bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return nil, false, err
	}
	body, err := l.do(client, req)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = body.Close() }() // only read from
	br := bufio.NewReader(body)
	// "# service=git-upload-pack" and a flush come first; version 2 may leave them out.
	line, kind, err := readPacket(br)
	if err != nil {
		return nil, false, err
	}
	seen := packet(line)
	if bytes.HasPrefix(line, []byte("# service=")) {
		if _, kind, err = readPacket(br); err != nil || kind != packetFlush {
			return nil, false, errors.Join(errors.New("answer is not Git's smart protocol"), err)
		}
		if line, kind, err = readPacket(br); err != nil {
			return nil, false, err
		}
		seen = packet(line)
	}
	switch {
	case kind == packetFlush: // an empty repository
		return nil, false, nil
	case bytes.Equal(bytes.TrimSuffix(line, []byte("\n")), []byte("version 2")):
		return nil, true, nil
	}
	adv := packp.NewAdvRefs()
	if err := adv.Decode(io.MultiReader(strings.NewReader(seen), br)); err != nil {
		if errors.Is(err, packp.ErrEmptyAdvRefs) {
			return nil, false, nil
		}
		return nil, false, err
	}
	return advertisedRefs(adv), false, nil
}

func lsRefs(ctx context.Context, client *http.Client, l location, base string, names []string) (map[string]string, error) {
	var ask strings.Builder
	ask.WriteString(packet([]byte("command=ls-refs\n")) + packet([]byte("agent="+agent+"\n")) + "0001")
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		ask.WriteString(packet([]byte("ref-prefix " + name + "\n")))
	}
	ask.WriteString("0000")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/git-upload-pack", strings.NewReader(ask.String()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Accept", "application/x-git-upload-pack-result")
	body, err := l.do(client, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // only read from
	br := bufio.NewReader(body)
	refs := map[string]string{}
	for {
		line, kind, err := readPacket(br)
		if err != nil {
			return nil, err
		}
		if kind == packetFlush {
			return refs, nil
		}
		text := strings.TrimSuffix(string(line), "\n")
		if reason, ok := strings.CutPrefix(text, "ERR "); ok {
			return nil, fmt.Errorf("remote says: %.200q", reason)
		}
		id, name, ok := strings.Cut(text, " ")
		if kind != packetData || !ok {
			return nil, errors.New("malformed answer to ls-refs")
		}
		name, _, _ = strings.Cut(name, " ") // attributes may follow
		refs[name] = id
	}
}

// do sends a request of protocol version 2 with the credentials, and turns refusals into errors.
func (l location) do(client *http.Client, req *http.Request) (io.ReadCloser, error) {
	req.Header.Set("Git-Protocol", "version=2")
	req.Header.Set("User-Agent", "git/"+agent)
	if l.username != "" {
		req.SetBasicAuth(l.username, l.password)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	_ = res.Body.Close() // the status says it all
	switch res.StatusCode {
	case http.StatusUnauthorized:
		return nil, transport.ErrAuthenticationRequired
	case http.StatusForbidden:
		return nil, transport.ErrAuthorizationFailed
	case http.StatusNotFound:
		return nil, transport.ErrRepositoryNotFound
	}
	return nil, fmt.Errorf("HTTP status %s", res.Status)
}

type packetKind int

const (
	packetData packetKind = iota
	packetFlush
	packetDelim
)

// packet frames a line by gitprotocol-common's pkt-line.
func packet(line []byte) string { return fmt.Sprintf("%04x%s", len(line)+4, line) }

func readPacket(r *bufio.Reader) ([]byte, packetKind, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, fmt.Errorf("answer ends early: %w", err)
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	switch {
	case err != nil || n == 3:
		return nil, 0, errors.New("answer is not Git's smart protocol")
	case n == 0, n == 2: // 2 ends a response on a connection that stays open
		return nil, packetFlush, nil
	case n == 1:
		return nil, packetDelim, nil
	}
	line := make([]byte, n-4)
	if _, err := io.ReadFull(r, line); err != nil {
		return nil, 0, fmt.Errorf("answer ends early: %w", err)
	}
	return line, packetData, nil
}
