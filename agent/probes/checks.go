package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxMessage bounds what of a probe's answer gets into an event, in bytes.
const maxMessage = 1024

// Target is the container that is probed.
type Target struct {
	PodIP     string // where httpGet, tcpSocket and grpc go that name no host
	Container *corev1.Container
	// Exec runs a command in the container and returns its output; an error is a failure.
	Exec func(ctx context.Context, command []string, timeout time.Duration) (output []byte, err error)
}

// For returns the check of a handler. An invalid one fails each time with a message that says why.
func (t Target) For(probe *corev1.Probe) Check {
	switch h := probe.ProbeHandler; {
	case h.Exec != nil:
		timeout := seconds(probe.TimeoutSeconds, 1)
		return func(ctx context.Context) Result {
			output, err := t.Exec(ctx, h.Exec.Command, timeout)
			if err != nil {
				return Result{Message: clip(strings.TrimSpace(string(output) + " " + err.Error()))}
			}
			return Result{OK: true}
		}
	case h.HTTPGet != nil:
		return func(ctx context.Context) Result { return result(t.HTTPGet(ctx, h.HTTPGet, "kube-probe/1.37")) }
	case h.TCPSocket != nil:
		return func(ctx context.Context) Result { return result(t.tcp(ctx, h.TCPSocket)) }
	case h.GRPC != nil:
		return func(ctx context.Context) Result { return result(t.grpc(ctx, h.GRPC)) }
	}
	return func(context.Context) Result {
		return Result{Message: "the probe has no handler: set exec, httpGet, tcpSocket or grpc"}
	}
}

func result(err error) Result {
	if err != nil {
		return Result{Message: clip(err.Error())}
	}
	return Result{OK: true}
}

func clip(message string) string {
	if len(message) > maxMessage {
		return message[:maxMessage]
	}
	return message
}

// client takes each probe to a connection of its own, so that a probe sees what a new client sees,
// and follows redirects on the same host only. Certificates are
// not checked, as under the kubelet: a probe asks whether a pod answers, not who it is.
var client = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	},
	CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	},
}

// HTTPGet asks for a path; every status from 200 to 399 is success. Lifecycle hooks use it too.
func (t Target) HTTPGet(ctx context.Context, action *corev1.HTTPGetAction, agent string) error {
	port, err := t.port(action.Port)
	if err != nil {
		return err
	}
	host := action.Host
	if host == "" {
		host = t.PodIP
	}
	scheme := strings.ToLower(string(action.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	where, err := url.Parse(action.Path)
	if err != nil {
		return fmt.Errorf("httpGet.path: %w", err)
	}
	where.Scheme, where.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", agent)
	request.Header.Set("Accept", "*/*")
	for _, h := range action.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			request.Host = h.Value
			continue
		}
		if request.Header.Get(h.Name) != "" && (strings.EqualFold(h.Name, "User-Agent") || strings.EqualFold(h.Name, "Accept")) {
			request.Header.Set(h.Name, h.Value)
			continue
		}
		request.Header.Add(h.Name, h.Value)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 10<<10)); err != nil {
		return err
	}
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", response.StatusCode)
	}
	return nil
}

func (t Target) tcp(ctx context.Context, action *corev1.TCPSocketAction) error {
	port, err := t.port(action.Port)
	if err != nil {
		return err
	}
	host := action.Host
	if host == "" {
		host = t.PodIP
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func (t Target) grpc(ctx context.Context, action *corev1.GRPCAction) error {
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(t.PodIP, strconv.Itoa(int(action.Port))),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return err
	}
	defer conn.Close()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", answer.GetStatus())
	}
	return nil
}

// port resolves a port by number, or by its name among the container's ports.
func (t Target) port(p intstr.IntOrString) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		for _, c := range t.Container.Ports {
			if c.Name == p.StrVal {
				return int(c.ContainerPort), nil
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %q: want 1 to 65535, or the name of a port of container %s", p.String(), t.Container.Name)
	}
	return n, nil
}
