package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

func call(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if len(header) == 2 {
		r.Header.Set(header[0], header[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHintsAreSigned(t *testing.T) {
	hints := 0
	h := Public{Hint: func() { hints++ }, HintSecret: []byte("s3cret")}.Handler()
	body := `{"ref":"refs/heads/main"}`
	mac := hmac.New(sha256.New, []byte("s3cret"))
	mac.Write([]byte(body))
	good := "sha256=" + hex.EncodeToString(mac.Sum(nil))
	tests := []struct {
		name, body, signature string
		code                  int
	}{
		{"unsigned", body, "", http.StatusForbidden},
		{"no hex", body, "sha256=zz", http.StatusForbidden},
		{"empty", body, "sha256=", http.StatusForbidden},
		{"another hash", body, strings.Replace(good, "sha256", "sha1", 1), http.StatusForbidden},
		{"another body", body + " ", good, http.StatusForbidden},
		{"good", body, good, http.StatusAccepted},
	}
	for _, tt := range tests {
		if w := call(h, http.MethodPost, "/hint", tt.body, SignatureHeader, tt.signature); w.Code != tt.code {
			t.Errorf("%s: %d %s, want %d", tt.name, w.Code, w.Body, tt.code)
		}
	}
	if hints != 1 {
		t.Errorf("%d hints passed, want 1", hints)
	}
	if w := call(h, http.MethodGet, "/hint", ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

func TestHintsAreLimited(t *testing.T) {
	hints := 0
	h := Public{Hint: func() { hints++ }}.Handler()
	refused := 0
	for range 100 {
		if w := call(h, http.MethodPost, "/hint", ""); w.Code == http.StatusTooManyRequests {
			refused++
			if w.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
	}
	// more than the burst only if this test takes seconds
	if hints < 5 || refused == 0 || hints+refused != 100 {
		t.Errorf("%d passed and %d refused of 100", hints, refused)
	}
}

func TestHealth(t *testing.T) {
	lacks := errors.New("containerd does not answer")
	h := Public{Ready: func() error { return lacks }}.Handler()
	if w := call(h, http.MethodGet, "/healthz", ""); w.Code != http.StatusOK {
		t.Errorf("healthz: %d", w.Code)
	}
	if w := call(h, http.MethodGet, "/readyz", ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "containerd does not answer") {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	lacks = nil
	if w := call(h, http.MethodGet, "/readyz", ""); w.Code != http.StatusOK {
		t.Errorf("readyz: %d", w.Code)
	}
}

func TestMetrics(t *testing.T) {
	store := state.New()
	registry := prometheus.NewRegistry()
	m, err := NewMetrics(registry, store, "v1")
	if err != nil {
		t.Fatal(err)
	}
	m.Synced(time.Second, nil)
	m.Synced(time.Second, errors.New("x"))
	m.Reconciled(time.Millisecond, nil)
	m.PodReady(800 * time.Millisecond)
	store.SetStatusPush(statusbranch.Status{Pushes: 1})
	m.Refused(2)
	store.SetRemote(gitsync.Remote{LastOK: time.Unix(1_700_000_000, 0)})
	a := accepted()
	a.ClusterCommit.Time = time.Unix(1_600_000_000, 0)
	store.SetAccepted(a)
	pod := ownPod("a", nil)
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", RestartCount: 3}}
	store.SetPods([]*corev1.Pod{pod})
	store.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{{Kind: "Deployment", Namespace: "default", Name: "web", Desired: 3, Ready: 2}}})

	text := call(Public{Metrics: registry}.Handler(), http.MethodGet, "/metrics", "").Body.String()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, want := range []string{
		"pleach_remote_up 1\n",
		"pleach_remote_last_success_timestamp_seconds 1.7e+09\n",
		`pleach_accepted_commit_timestamp_seconds{app="pleach.dev"} 1.6e+09` + "\n",
		`pleach_pods{phase="Running"} 1` + "\n",
		`pleach_pods{phase="Pending"} 0` + "\n",
		`pleach_container_restarts_total{container="app",namespace="default",pod="a"} 3` + "\n",
		`pleach_workload_replicas{kind="Deployment",name="web",namespace="default",state="ready"} 2` + "\n",
		`pleach_sync_duration_seconds_count{result="error"} 1` + "\n",
		`pleach_pod_start_duration_seconds_bucket{le="1"} 1` + "\n",
		`pleach_status_pushes_total{result="success"} 1` + "\n",
		"pleach_commits_refused_total 2\n",
		`version="v1"} 1` + "\n",
		"go_goroutines ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q", want)
		}
	}
	store.SetRemote(gitsync.Remote{LastOK: time.Now(), Alarm: "rewound"})
	if text := call(Public{Metrics: registry}.Handler(), http.MethodGet, "/metrics", "").Body.String(); !strings.Contains(text, "pleach_remote_up 0\n") {
		t.Error("a remote that raised an alarm is up")
	}
}
