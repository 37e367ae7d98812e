package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func serve(t *testing.T, a *app) *httptest.Server {
	t.Helper()
	a.ready.Store(a.fault != "unready")
	a.healthy.Store(true)
	server := httptest.NewServer(a.handler(slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	return server
}

func ask(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

func TestPaths(t *testing.T) {
	server := serve(t, &app{version: "v7", color: "#abcdef"})
	for _, step := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/", 200, `"color": "#abcdef"`},
		{"GET", "/version", 200, `"version": "v7"`},
		{"GET", "/env", 200, "PATH="},
		{"GET", "/healthz", 200, "OK"},
		{"GET", "/readyz", 200, "OK"},
		{"POST", "/readyz/disable", 202, ""},
		{"GET", "/readyz", 503, ""},
		{"POST", "/readyz/enable", 202, ""},
		{"GET", "/readyz", 200, "OK"},
		{"POST", "/healthz/disable", 202, ""},
		{"GET", "/healthz", 503, ""},
		{"GET", "/delay/0.01", 200, "0.01"},
		{"GET", "/delay/soon", 400, "want seconds"},
		{"GET", "/status/418", 418, "418"},
		{"GET", "/status/99", 400, "from 200 to 599"},
		{"GET", "/nothing", 404, ""},
		{"GET", "/metrics", 200, `http_requests_total{status="418"} 1`},
		{"GET", "/cache/x", 502, "--cache-server"},
	} {
		code, body := ask(t, step.method, server.URL+step.path, "")
		if code != step.code || !strings.Contains(body, step.want) {
			t.Errorf("%s %s: %d %q, want %d with %q", step.method, step.path, code, body, step.code, step.want)
		}
	}
	host := strings.TrimPrefix(server.URL, "http://")
	for path, want := range map[string]int{"/readyz": 0, "/healthz": 1} {
		if got := check([]string{"check", "http", host + path}); got != want {
			t.Errorf("podcli check http %s ends with %d, want %d", path, got, want)
		}
	}
}

func TestUnreadyStaysUnready(t *testing.T) {
	server := serve(t, &app{fault: "unready"})
	ask(t, "POST", server.URL+"/readyz/enable", "")
	if code, _ := ask(t, "GET", server.URL+"/readyz", ""); code != 503 {
		t.Errorf("/readyz answers %d, want 503", code)
	}
}

func TestCacheSpeaksRedis(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for _, answer := range []string{"+OK\r\n", "$5\r\nhello\r\n", "$-1\r\n", "-ERR no\r\n"} {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
		}
	}()
	server := serve(t, &app{cache: "tcp://" + listener.Addr().String()})
	for _, step := range []struct {
		method string
		code   int
		want   string
	}{{"POST", 202, ""}, {"GET", 200, "hello"}, {"GET", 404, "no such key"}, {"DELETE", 502, "ERR no"}} {
		code, body := ask(t, step.method, server.URL+"/cache/k", "hello")
		if code != step.code || !strings.Contains(body, step.want) {
			t.Errorf("%s: %d %q, want %d with %q", step.method, code, body, step.code, step.want)
		}
	}
}

func TestHealthServiceName(t *testing.T) {
	server := httptest.NewUnstartedServer(health("podinfo"))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	for service, want := range map[string]string{"": "0", "podinfo": "0", "other": "5"} {
		message := []byte{}
		if service != "" {
			message = append([]byte{0x0a, byte(len(service))}, service...)
		}
		frame := append([]byte{0, 0, 0, 0, byte(len(message))}, message...)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/grpc.health.v1.Health/Check", bytes.NewReader(frame))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if got := response.Trailer.Get("Grpc-Status"); err != nil || got != want {
			t.Errorf("service %q: status %q (%v), want %s", service, got, err, want)
		}
		if serving := bytes.Equal(body, []byte{0, 0, 0, 0, 2, 8, 1}); serving != (want == "0") {
			t.Errorf("service %q: body %x", service, body)
		}
	}
}

// TestMain lets the test binary be podinfo itself.
func TestMain(m *testing.M) {
	if os.Getenv("PODINFO_VERSION") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestProcess(t *testing.T) {
	start := func(env string, flags ...string) (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), os.Args[0], flags...)
		cmd.Env = append(os.Environ(), "PODINFO_VERSION=v1", env)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &out
	}
	free := func() int {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		return listener.Addr().(*net.TCPAddr).Port
	}
	port := free()
	cmd, out := start("PODINFO_FAULT=", "--port="+fmt.Sprint(port), "--port-metrics="+fmt.Sprint(free()), "--grpc-port="+fmt.Sprint(free()),
		"--grpc-service-name=podinfo", "--level=info", "--random-delay=false", "--random-error=false", "--cache-server=tcp://cache:6379")
	url := fmt.Sprintf("127.0.0.1:%d/healthz", port)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		response, err := http.Get("http://" + url)
		if err == nil {
			_ = response.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer: %v\n%s", err, out)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, out)
	}
	cmd, out = start("PODINFO_FAULT=crash")
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "broken") {
		t.Errorf("the crashing version ended with %v: %s", err, out)
	}
}
