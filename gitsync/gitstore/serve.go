package gitstore

import (
	"bufio"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"
)

// Bounds of what a [Server] does for its peers.
const (
	serveTimeout   = 2 * time.Minute
	serveWait      = 2 * time.Second // for a commit that is about to be here
	servePacks     = 4               // that are made at a time
	serveWaiting   = 64              // requests at a time, those that wait for a commit included
	serveObjects   = 1 << 20         // in one pack
	maxAskBytes    = 64 << 10        // of a request
	maxAskHaves    = 256
	sidebandData   = 65515 // of one packet, with the number of its band
	serverFeatures = "side-band-64k ofs-delta no-progress agent=" + agent
)

// Server hands out what this node has verified, read-only and by Git's smart HTTP protocol (version 0):
// one branch, and the objects that its head reaches. Any git can clone from it. Who may ask is for
// whoever mounts it to say; the path that it was mounted at is stripped.
//
// A peer is told of a head before its neighbour may have it: a commit that is not here yet is waited for
// a moment.
type Server struct {
	store    *Store
	ref      string
	verified func() (head string, changed <-chan struct{})
	log      *slog.Logger
	waiting  chan struct{}
	packs    chan struct{}
}

// NewServer makes a Server of the store. ref is the name that the head gets, "refs/heads/main"; verified
// returns the newest commit that this node vouches for, "" when there is none, and a channel that is
// closed when that is no longer so.
func NewServer(s *Store, ref string, verified func() (head string, changed <-chan struct{}), log *slog.Logger) *Server {
	return &Server{
		store: s, ref: ref, verified: verified, log: log,
		waiting: make(chan struct{}, serveWaiting), packs: make(chan struct{}, servePacks),
	}
}

// ServeHTTP answers info/refs and git-upload-pack.
func (v *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), serveTimeout)
	defer cancel()
	// A client that does not read must not hold a place for longer.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(serveTimeout)) // not every writer can
	w.Header().Set("Cache-Control", "no-cache")
	switch action := strings.TrimPrefix(r.URL.Path, "/"); {
	case r.Method == http.MethodGet && action == "info/refs" && r.URL.Query().Get("service") == "git-upload-pack":
		v.refs(w)
	case r.Method == http.MethodPost && action == "git-upload-pack":
		v.uploadPack(ctx, w, r)
	default:
		http.Error(w, "read-only: git-upload-pack and nothing else", http.StatusNotFound)
	}
}

func (v *Server) refs(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	head, _ := v.verified()
	out := packet([]byte("# service=git-upload-pack\n")) + "0000"
	if head == "" {
		out += packet([]byte(plumbing.ZeroHash.String() + " capabilities^{}\x00" + serverFeatures + "\n"))
	} else {
		out += packet([]byte(head+" HEAD\x00"+serverFeatures+" symref=HEAD:"+v.ref+"\n")) + packet([]byte(head+" "+v.ref+"\n"))
	}
	_, _ = io.WriteString(w, out+"0000") // a client that went away
}

// ask is a request for a pack.
type ask struct {
	want  plumbing.Hash
	haves []plumbing.Hash
	done  bool
}

// readAsk parses a request of the stateless protocol: wants, a flush, then haves until a flush or "done".
func readAsk(body io.Reader, contentEncoding string) (ask, error) {
	var a ask
	if contentEncoding == "gzip" { // git's own client does so
		plain, err := gzip.NewReader(body)
		if err != nil {
			return a, err
		}
		body = io.LimitReader(plain, maxAskBytes)
	}
	br := bufio.NewReader(body)
	wants, capabilities := true, ""
	for {
		line, kind, err := readPacket(br)
		switch {
		case errors.Is(err, io.EOF) && !wants:
			return a, nil // a client may leave out the last flush
		case err != nil:
			return a, err
		case kind == packetFlush && wants:
			wants = false
			continue
		case kind == packetFlush:
			return a, nil
		case kind != packetData:
			return a, errors.New("not a request of protocol version 0")
		}
		word, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if word == "done" {
			a.done = true
			return a, nil
		}
		text, more, _ := strings.Cut(rest, " ")
		id, err := parseID(text)
		switch {
		case err != nil || wants != (word == "want") || !wants && word != "have":
			return a, fmt.Errorf("unexpected line %.100q; shallow and filtered fetches are not served", line)
		case !wants && len(a.haves) < maxAskHaves:
			a.haves = append(a.haves, id)
		case wants && a.want != plumbing.ZeroHash && a.want != id:
			return a, errors.New("one commit at a time")
		case wants:
			a.want, capabilities = id, capabilities+more
		}
		if wants && !strings.Contains(capabilities, "side-band-64k") {
			return a, errors.New("want side-band-64k")
		}
	}
}

func (v *Server) uploadPack(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	leave, ok := enter(w, v.waiting)
	if !ok {
		return
	}
	defer leave()
	a, err := readAsk(http.MaxBytesReader(w, r.Body, maxAskBytes), r.Header.Get("Content-Encoding"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if a.want == plumbing.ZeroHash {
		http.Error(w, "nothing is asked for", http.StatusBadRequest)
		return
	}
	switch verified, err := v.await(ctx, a.want); {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case !verified:
		http.Error(w, fmt.Sprintf("commit %s: this node has not verified it", a.want), http.StatusNotFound)
		return
	}
	leave, ok = enter(w, v.packs)
	if !ok {
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	common := v.store.known(a.haves)
	answer := packet([]byte("NAK\n"))
	if len(common) > 0 {
		answer = packet([]byte("ACK " + common[0].String() + "\n"))
	}
	if !a.done {
		_, _ = io.WriteString(w, answer) // a client that went away
		return
	}
	objects, err := v.store.reach(a.want, common, serveObjects)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err = io.WriteString(w, answer); err == nil {
		err = v.store.writePack(ctx, firstBand{w}, objects, maxPackBytes)
	}
	if err != nil {
		// The client finds a pack that ends early; the status has been sent.
		v.log.Info("a peer did not get its pack", "peer", r.RemoteAddr, "commit", a.want.String(), "err", err)
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, "0000") // a client that went away
}

// enter takes a place, or tells the client that there is none.
func enter(w http.ResponseWriter, places chan struct{}) (leave func(), ok bool) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many ask at once", http.StatusServiceUnavailable)
		return nil, false
	}
}

// await reports whether a commit is part of what is verified, now or in a moment.
func (v *Server) await(ctx context.Context, want plumbing.Hash) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, serveWait)
	defer cancel()
	for {
		head, changed := v.verified()
		if head != "" {
			known, err := v.store.IsAncestor(want.String(), head)
			if missing, ok := errors.AsType[*ObjectError](err); ok && missing.Missing {
				known, err = false, nil
			}
			if known || err != nil {
				return known, err
			}
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-changed:
		}
	}
}

// known returns those of the commits that the store has with their history.
func (s *Store) known(ids []plumbing.Hash) []plumbing.Hash {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []plumbing.Hash
	for _, id := range ids {
		if _, err := s.levelLocked(id); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// firstBand frames what is written as data of the first band.
type firstBand struct{ w io.Writer }

func (b firstBand) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		part := p[:min(len(p), sidebandData)]
		if _, err := io.WriteString(b.w, packet(append([]byte{1}, part...))); err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

// writePack writes the objects as they are, without deltas: that needs neither time nor memory, and what
// peers exchange is small. The store is held for one object at a time, so that a slow reader keeps
// nobody waiting. More than limit bytes are an error.
func (s *Store) writePack(ctx context.Context, w io.Writer, objects []object, limit int64) error {
	sum := sha1cd.New()
	out := bufio.NewWriterSize(w, sidebandData)
	written := &counted{w: io.MultiWriter(out, sum), left: limit}
	head := append([]byte("PACK"), 0, 0, 0, 2)
	if _, err := written.Write(binary.BigEndian.AppendUint32(head, uint32(len(objects)))); err != nil {
		return err
	}
	deflate := zlib.NewWriter(written)
	for _, o := range objects {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := s.raw(o)
		if err != nil {
			return err
		}
		if _, err := written.Write(entryHead(o.kind, len(data))); err != nil {
			return err
		}
		deflate.Reset(written)
		if _, err := deflate.Write(data); err != nil {
			return err
		}
		if err := deflate.Close(); err != nil {
			return err
		}
	}
	if _, err := out.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return out.Flush()
}

func (s *Store) raw(o object) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rawLocked(o.id, o.kind)
}

// entryHead is the type and size before an object in a pack (gitformat-pack).
func entryHead(kind plumbing.ObjectType, size int) []byte {
	b := byte(kind)<<4 | byte(size&0x0f)
	var out []byte
	for size >>= 4; size > 0; size >>= 7 {
		out = append(out, b|0x80)
		b = byte(size & 0x7f)
	}
	return append(out, b)
}

// counted fails once more than left bytes were written.
type counted struct {
	w    io.Writer
	left int64
}

func (c *counted) Write(p []byte) (int, error) {
	if c.left -= int64(len(p)); c.left < 0 {
		return 0, errTooLarge
	}
	return c.w.Write(p)
}
