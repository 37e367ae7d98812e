package probes

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// run probes for a while of fake time; ok answers by the time since the container's start. It
// returns when checks ran, and the standings as "<seconds> <ok>".
func run(t *testing.T, p Prober, d time.Duration, ok func(time.Duration) bool) (checks []time.Duration, standings []string, failed int) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p.Started = began
		p.Check = func(context.Context) Result {
			checks = append(checks, time.Since(began))
			return Result{OK: ok(time.Since(began)), Message: "no"}
		}
		p.Changed = func(ok bool, _ string) { standings = append(standings, fmt.Sprintf("%s %v", time.Since(began), ok)) }
		p.Failed = func(string) { failed++ }
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		p.Run(ctx)
	})
	return checks, standings, failed
}

func after(d time.Duration) func(time.Duration) bool {
	return func(at time.Duration) bool { return at >= d }
}

func TestReadinessIsFoundEarly(t *testing.T) {
	for _, c := range []struct {
		name  string
		probe corev1.Probe
		at    []time.Duration // of checks, milliseconds
		ready string
	}{
		{"a connection", corev1.Probe{PeriodSeconds: 10}, []time.Duration{20, 40, 80, 160, 320, 640, 10640, 20640}, "640ms true"},
		{
			"a command",
			corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}},
			[]time.Duration{20, 120, 320, 720, 10720, 20720},
			"720ms true",
		},
	} {
		checks, standings, failed := run(t, Prober{Kind: Readiness, Probe: &c.probe}, 30*time.Second, after(500*time.Millisecond))
		for i := range checks {
			checks[i] /= time.Millisecond
		}
		if !slices.Equal(checks, c.at) || !slices.Equal(standings, []string{c.ready}) || failed != 1 {
			t.Errorf("%s: checks %v, standings %v, %d failures counted", c.name, checks, standings, failed)
		}
	}
}

func TestEarlyRetriesDoNotCount(t *testing.T) {
	// Three failures, 10 s apart, condemn 20 s after the first and not before, however many checks there were.
	_, standings, failed := run(t, Prober{Kind: Startup, Probe: &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3}}, time.Minute, after(time.Hour))
	if !slices.Equal(standings, []string{"20.02s false"}) || failed != 3 {
		t.Errorf("standings %v, %d failures counted", standings, failed)
	}
}

func TestLivenessKeepsItsPeriod(t *testing.T) {
	checks, standings, _ := run(t, Prober{Kind: Liveness, Passed: true, Probe: &corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10}}, time.Minute, after(time.Hour))
	if want := []time.Duration{5 * time.Second, 15 * time.Second, 25 * time.Second}; !slices.Equal(checks, want) || !slices.Equal(standings, []string{"25s false"}) {
		t.Errorf("checks %v, standings %v", checks, standings)
	}
}

func TestThresholds(t *testing.T) {
	flaps := func(at time.Duration) bool { return at < 20*time.Second || at >= 50*time.Second }
	_, standings, _ := run(t, Prober{Kind: Readiness, Probe: &corev1.Probe{PeriodSeconds: 10, SuccessThreshold: 2, FailureThreshold: 2}}, 2*time.Minute, flaps)
	if want := []string{"10.02s true", "30.02s false", "1m0.02s true"}; !slices.Equal(standings, want) {
		t.Errorf("standings %v; want %v", standings, want)
	}
}

func TestChecks(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.URL.RawQuery != "a=b" || r.Host != "named" || r.Header.Get("X-Test") != "1" {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/moved":
			http.Redirect(w, r, "/ok?a=b", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://other.invalid/", http.StatusFound)
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	where, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(where.Port())
	if err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	target := Target{
		PodIP: "127.0.0.1", Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}},
		Exec: func(_ context.Context, command []string, _ time.Duration) ([]byte, error) {
			if command[0] == "false" {
				return []byte("it broke"), fmt.Errorf("exit 1")
			}
			return nil, nil
		},
	}
	get := func(path string, port intstr.IntOrString) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port, HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "named"}, {Name: "X-Test", Value: "1"}}}}
	}
	for _, c := range []struct {
		name    string
		handler corev1.ProbeHandler
		fails   string // part of the message; "" for success
	}{
		{"http", get("/ok?a=b", intstr.FromInt32(int32(port))), ""},
		{"http by name", get("/ok?a=b", intstr.FromString("web")), ""},
		{"http 500", get("/broken", intstr.FromString("web")), "statuscode: 500"},
		{"redirect to another host is success", get("/away", intstr.FromString("web")), ""},
		{"unknown port", get("/ok", intstr.FromString("nothing")), "port \"nothing\""},
		{"tcp", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}, ""},
		{"tcp refused", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(closed.Addr().(*net.TCPAddr).Port))}}, "refused"},
		{"exec", corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}, ""},
		{"exec fails", corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}, "it broke"},
		{"none", corev1.ProbeHandler{}, "no handler"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := target.For(&corev1.Probe{ProbeHandler: c.handler})(t.Context())
			if got.OK != (c.fails == "") || !strings.Contains(got.Message, c.fails) {
				t.Errorf("%+v; want %q", got, c.fails)
			}
		})
	}
}
