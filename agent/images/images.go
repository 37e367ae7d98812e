// Package images brings container images onto the node: one pull per image at a time, a bounded
// number side by side, with the kubelet's back-off after failures, and removal of unused images
// when the disk runs full.
package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Back-off between pulls of one image, as the kubelet's.
const (
	MinBackOff = 10 * time.Second
	MaxBackOff = 5 * time.Minute
)

// Reasons why an image is not there, as in a container's waiting state.
const (
	ErrImagePull      = "ErrImagePull"
	ImagePullBackOff  = "ImagePullBackOff"
	ErrImageNeverPull = "ErrImageNeverPull"
	InvalidImageName  = "InvalidImageName"
)

// Error says why an image could not be had.
type Error struct {
	Reason string    // one of the reasons above
	Retry  time.Time // when trying again makes sense; zero when it never does
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Image is an image on this node.
type Image struct {
	Ref  string // what a container is created from, and its status' imageID
	UID  *int64 // the image's user when it is a number
	User string // the image's user when it is a name; "" with nil UID means root
	// Pulled says that this call moved it here, and how long that took.
	Pulled bool
	Took   time.Duration
}

// Puller pulls images. The zero value of its fields is not usable; see New.
type Puller struct {
	service cri.ImageManagerService
	slots   chan struct{}

	mu       sync.Mutex
	inFlight map[string]*pull
	failures map[string]*failure
}

type pull struct {
	done chan struct{}
	ref  string
	took time.Duration
	err  error
}

type failure struct {
	delay time.Duration
	until time.Time
	err   error
}

// New returns a Puller that runs at most parallel pulls at a time; 0 means 4.
func New(service cri.ImageManagerService, parallel int) *Puller {
	if parallel <= 0 {
		parallel = 4
	}
	return &Puller{
		service:  service,
		slots:    make(chan struct{}, parallel),
		inFlight: map[string]*pull{},
		failures: map[string]*failure{},
	}
}

// DefaultPolicy is the imagePullPolicy of a container that names none: Always for the tag latest
// or none, otherwise IfNotPresent.
func DefaultPolicy(image string) corev1.PullPolicy {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if _, digested := named.(reference.Digested); digested {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := named.(reference.Tagged); ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// Ensure returns the image once it is on this node. sandbox is handed to the runtime with a pull
// and may be nil. onPull is called when a pull begins for this caller. The error is an *Error, or
// the context's.
func (p *Puller) Ensure(ctx context.Context, image string, policy corev1.PullPolicy, keys Keyring,
	sandbox *runtimeapi.PodSandboxConfig, onPull func(),
) (Image, error) {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return Image{}, &Error{Reason: InvalidImageName, Err: fmt.Errorf("image %q: %w", image, err)}
	}
	name := named.String()
	if policy == "" {
		policy = DefaultPolicy(image)
	}
	if policy != corev1.PullAlways {
		found, ok, err := p.lookUp(ctx, name)
		switch {
		case err != nil && ctx.Err() != nil:
			return Image{}, ctx.Err()
		case err != nil:
			return Image{}, p.failed(name, fmt.Errorf("look up image %s: %w", image, err))
		case ok:
			return found, nil
		case policy == corev1.PullNever:
			return Image{}, &Error{
				Reason: ErrImageNeverPull, Retry: time.Now().Add(MinBackOff),
				Err: fmt.Errorf("image %s is not on this node, and imagePullPolicy is Never", image),
			}
		}
	}
	done, err := p.pull(ctx, name, keys, sandbox, onPull)
	if err != nil {
		return Image{}, err
	}
	found, ok, err := p.lookUp(ctx, name)
	if err == nil && !ok {
		err = errors.New("the runtime reports the pull as done but does not list the image")
	}
	if err != nil {
		if ctx.Err() != nil {
			return Image{}, ctx.Err()
		}
		return Image{}, p.failed(name, fmt.Errorf("look up image %s: %w", image, err))
	}
	found.Pulled, found.Took = true, done.took
	return found, nil
}

func (p *Puller) lookUp(ctx context.Context, name string) (Image, bool, error) {
	answer, err := p.service.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: name}, false)
	if err != nil || answer.GetImage() == nil {
		return Image{}, false, err
	}
	found := answer.GetImage()
	image := Image{Ref: found.GetId(), User: found.GetUsername()}
	if found.GetUid() != nil {
		image.UID = new(found.GetUid().GetValue())
	}
	return image, true, nil
}

// pull joins the pull of the same image that is under way, or begins one. A pull that several wait
// for goes on when the one that began it gives up.
func (p *Puller) pull(ctx context.Context, name string, keys Keyring, sandbox *runtimeapi.PodSandboxConfig, onPull func()) (*pull, error) {
	auths := keys.For(name)
	// Pods with other credentials do not share a pull: one's right to an image is not the other's.
	key := name + "\x00" + keys.fingerprint(name)
	p.mu.Lock()
	if f := p.failures[key]; f != nil && time.Now().Before(f.until) {
		p.mu.Unlock()
		return nil, &Error{Reason: ImagePullBackOff, Retry: f.until, Err: fmt.Errorf("back-off pulling image %q: %w", name, f.err)}
	}
	job := p.inFlight[key]
	if job == nil {
		job = &pull{done: make(chan struct{})}
		p.inFlight[key] = job
		p.mu.Unlock()
		if onPull != nil {
			onPull()
		}
		p.run(ctx, job, name, auths, sandbox)
		p.mu.Lock()
		delete(p.inFlight, key)
		if job.err == nil {
			delete(p.failures, key)
		}
		p.mu.Unlock()
		close(job.done)
	} else {
		p.mu.Unlock()
		select {
		case <-job.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if errors.Is(job.err, context.Canceled) && ctx.Err() == nil {
			return p.pull(ctx, name, keys, sandbox, onPull)
		}
	}
	switch {
	case job.err == nil:
		return job, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, p.failed(key, job.err)
}

func (p *Puller) run(ctx context.Context, job *pull, name string, auths []*runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		job.err = context.Canceled
		return
	}
	defer func() { <-p.slots }()
	began := time.Now()
	var errs []error
	for _, auth := range auths {
		ref, err := p.service.PullImage(ctx, &runtimeapi.ImageSpec{Image: name}, auth, sandbox)
		if err == nil {
			job.ref, job.took = ref, time.Since(began)
			return
		}
		if ctx.Err() != nil {
			job.err = context.Canceled
			return
		}
		errs = append(errs, err)
	}
	job.err = fmt.Errorf("pull image %q: %w", name, errors.Join(errs...))
}

// failed counts a failure: the next try waits 10 s, then twice as long each time, up to 5 min.
// Failures that are seen together through one shared pull count once.
func (p *Puller) failed(key string, err error) *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	// Entries that nobody asked for again are forgotten, so that the map stays as small as the node.
	for k, f := range p.failures {
		if k != key && now.Sub(f.until) > 2*MaxBackOff {
			delete(p.failures, k)
		}
	}
	f := p.failures[key]
	switch {
	case f == nil || now.Sub(f.until) > 2*MaxBackOff:
		f = &failure{delay: MinBackOff}
		p.failures[key] = f
		f.until = now.Add(f.delay)
	case !now.Before(f.until):
		f.delay = min(2*f.delay, MaxBackOff)
		f.until = now.Add(f.delay)
	}
	f.err = err
	return &Error{Reason: ErrImagePull, Retry: f.until, Err: err}
}

// Registry is the registry host of an image name: "docker.io" for short names, "" when the name
// cannot be parsed.
func Registry(image string) string {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return ""
	}
	return strings.ToLower(reference.Domain(named))
}
