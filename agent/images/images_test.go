package images_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/images"
	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

func TestDefaultPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"app": corev1.PullAlways, "app:latest": corev1.PullAlways, "example.org:5000/app": corev1.PullAlways,
		"app:1": corev1.PullIfNotPresent, "example.org:5000/app:1": corev1.PullIfNotPresent,
		"app@sha256:" + strings.Repeat("a", 64): corev1.PullIfNotPresent,
	} {
		if got := images.DefaultPolicy(image); got != want {
			t.Errorf("%s: %s; want %s", image, got, want)
		}
	}
}

func TestPolicies(t *testing.T) {
	const there, missing = "example.org/there:1", "example.org/missing:1"
	for _, c := range []struct {
		image  string
		policy corev1.PullPolicy
		pulls  int
		reason string
	}{
		{there, corev1.PullAlways, 1, ""},
		{there, corev1.PullIfNotPresent, 0, ""},
		{there, corev1.PullNever, 0, ""},
		{missing, corev1.PullIfNotPresent, 1, ""},
		{missing, corev1.PullNever, 0, images.ErrImageNeverPull},
		{"Not A Name", corev1.PullAlways, 0, images.InvalidImageName},
	} {
		t.Run(c.image+"/"+string(c.policy), func(t *testing.T) {
			r := fakecri.New(there)
			got, err := images.New(r.Connect().Images(), 0).Ensure(t.Context(), c.image, c.policy, images.Keyring{}, nil, nil)
			failed, _ := errors.AsType[*images.Error](err)
			switch {
			case c.reason == "" && (err != nil || got.Ref == "" || got.Pulled != (c.pulls > 0)):
				t.Errorf("got %+v, %v", got, err)
			case c.reason != "" && (failed == nil || failed.Reason != c.reason):
				t.Errorf("got %v; want reason %s", err, c.reason)
			}
			if pulls := len(r.Log()); pulls != c.pulls {
				t.Errorf("%d pulls; want %d", pulls, c.pulls)
			}
		})
	}
}

func TestPullsAreSharedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New()
		var mu sync.Mutex
		running, most := 0, 0
		r.Pull = func(context.Context, string, *runtimeapi.AuthConfig) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}
		puller := images.New(r.Connect().Images(), 2)
		var wg sync.WaitGroup
		for _, image := range []string{"a:1", "a:1", "a:1", "b:1", "c:1", "d:1"} {
			wg.Go(func() {
				if _, err := puller.Ensure(context.Background(), image, corev1.PullIfNotPresent, images.Keyring{}, nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if pulls := len(r.Log()); pulls != 4 || most != 2 {
			t.Errorf("%d pulls, %d at a time; want 4, 2", pulls, most)
		}
	})
}

// When the one that began a pull gives up, those who wait for it pull themselves.
func TestWaitersOutliveTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New()
		r.Pull = func(ctx context.Context, _ string, _ *runtimeapi.AuthConfig) error {
			select {
			case <-time.After(time.Minute):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		puller := images.New(r.Connect().Images(), 0)
		first, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := puller.Ensure(first, "a:1", "", images.Keyring{}, nil, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := puller.Ensure(context.Background(), "a:1", "", images.Keyring{}, nil, nil); err != nil {
				t.Errorf("the second: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New()
		r.Pull = func(context.Context, string, *runtimeapi.AuthConfig) error { return errors.New("no") }
		puller := images.New(r.Connect().Images(), 0)
		var waits []time.Duration
		for range 8 {
			_, err := puller.Ensure(context.Background(), "a:1", "", images.Keyring{}, nil, nil)
			failed, ok := errors.AsType[*images.Error](err)
			if !ok || failed.Reason != images.ErrImagePull {
				t.Fatalf("got %v", err)
			}
			waits = append(waits, time.Until(failed.Retry))
			_, err = puller.Ensure(context.Background(), "a:1", "", images.Keyring{}, nil, nil)
			if failed, ok := errors.AsType[*images.Error](err); !ok || failed.Reason != images.ImagePullBackOff {
				t.Fatalf("within the back-off: %v", err)
			}
			time.Sleep(time.Until(failed.Retry))
		}
		if want := []time.Duration{10, 20, 40, 80, 160, 300, 300, 300}; !slices.EqualFunc(waits, want, func(a, b time.Duration) bool { return a == b*time.Second }) {
			t.Errorf("waits %v", waits)
		}
	})
}

func TestKeyring(t *testing.T) {
	secret := func(kind corev1.SecretType, key, data string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pull"}, Type: kind, Data: map[string][]byte{key: []byte(data)}}
	}
	keys, err := images.NewKeyring(secret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{
		"https://index.docker.io/v1/": {"username": "hub", "password": "p"},
		"*.example.org": {"auth": "d2lsZDpw"},
		"reg.example.org/team": {"username": "team", "password": "p"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string][]string{
		"app:1": {"hub"}, "reg.example.org/team/app:1": {"team", "wild"}, "reg.example.org/teams/app:1": {"wild"},
		"a.b.example.org/app:1": {""}, "elsewhere.net/app:1": {""},
	} {
		var got []string
		for _, a := range keys.For(image) {
			got = append(got, a.GetUsername())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q; want %q", image, got, want)
		}
	}
	for _, bad := range []*corev1.Secret{
		secret(corev1.SecretTypeOpaque, "x", "y"),
		secret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "hunter2"),
		secret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"a.b":{"auth":"hunter2"}}}`),
	} {
		if _, err := images.NewKeyring(bad); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad.Type, err)
		}
	}
}

func TestCollect(t *testing.T) {
	r := fakecri.New()
	for name, size := range map[string]uint64{"example.org/small:1": 10, "example.org/big:1": 30, "example.org/pinned:1": 100, "example.org/pause:1": 50} {
		r.SetImage(name, &runtimeapi.Image{Id: "id-" + name, RepoTags: []string{name}, Size: size, Pinned: strings.Contains(name, "pinned")})
	}
	client := r.Connect()
	collector := images.Collector{Images: client.Images(), Runtime: client, Pinned: []string{"example.org/pause:1"}}
	for _, c := range []struct {
		used uint64
		want []string
	}{
		{84, nil},
		{85, []string{"id-example.org/big:1"}},
		{99, []string{"id-example.org/small:1"}},
		{99, nil},
	} {
		collector.Usage = func(string) (uint64, uint64, error) { return c.used, 100, nil }
		if got, err := collector.Collect(t.Context()); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("disk %d %% used: removed %v, %v; want %v", c.used, got, err, c.want)
		}
	}
}
