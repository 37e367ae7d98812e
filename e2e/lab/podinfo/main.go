// Command podinfo is the sample app of the tests, the benchmarks and the demo. It takes the flags,
// ports, paths and environment of the well-known app of that name as far as its manifests use them,
// so that those manifests run unchanged, answers within milliseconds of its start, and can be made
// to misbehave.
//
// Under the name podcli it is the client that the probes of those manifests call:
// "podcli check http localhost:9898/healthz".
//
// The environment says which version it is: PODINFO_VERSION, PODINFO_UI_COLOR, PODINFO_UI_MESSAGE.
// PODINFO_FAULT makes it a bad one: "crash" ends it with code 1 right after its start, "unready"
// never lets /readyz succeed, "unhealthy" fails /healthz, "stubborn" ignores SIGTERM.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == "podcli" {
		os.Exit(check(os.Args[1:]))
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "podinfo: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		port        = flag.Int("port", 9898, "HTTP port")
		portMetrics = flag.Int("port-metrics", 0, "port that serves /metrics alone; 0 for none")
		grpcPort    = flag.Int("grpc-port", 0, "port of the gRPC health service; 0 for none")
		grpcService = flag.String("grpc-service-name", "podinfo", "service name that the gRPC health service knows")
		level       = flag.String("level", "info", "log level: debug, info, warn or error")
		grace       = flag.Duration("shutdown-grace", time.Second, "how long requests in flight may take after SIGTERM")
		a           = app{
			version: cmp.Or(os.Getenv("PODINFO_VERSION"), "dev"),
			color:   cmp.Or(os.Getenv("PODINFO_UI_COLOR"), "#34577c"),
			message: cmp.Or(os.Getenv("PODINFO_UI_MESSAGE"), "greetings from podinfo"),
			fault:   os.Getenv("PODINFO_FAULT"),
		}
	)
	flag.BoolVar(&a.randomDelay, "random-delay", false, "answer up to 5 s late")
	flag.BoolVar(&a.randomError, "random-error", false, "answer one request in three with 500")
	flag.StringVar(&a.cache, "cache-server", "", "Redis address for /cache: tcp://host:port")
	flag.Parse()

	a.host, _ = os.Hostname()
	a.ready.Store(true)
	a.healthy.Store(true)
	switch a.fault {
	case "", "stubborn":
	case "crash":
		return errors.New("this version is broken, as it was told to be")
	case "unready":
		a.ready.Store(false)
	case "unhealthy":
		a.healthy.Store(false)
	default:
		return fmt.Errorf("PODINFO_FAULT: unknown fault %q", a.fault)
	}
	var logLevel slog.Level
	if err := logLevel.UnmarshalText([]byte(*level)); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: logLevel}))

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	servers := []struct {
		what    string
		port    int
		handler http.Handler
	}{{"http", *port, a.handler(log)}, {"metrics", *portMetrics, a.metricsHandler()}, {"grpc", *grpcPort, health(*grpcService)}}

	failed := make(chan error, len(servers))
	var running []*http.Server
	for _, s := range servers {
		if s.port == 0 {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", s.port))
		if err != nil {
			return err
		}
		server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second}
		if s.what == "grpc" {
			server.Protocols = new(http.Protocols)
			server.Protocols.SetUnencryptedHTTP2(true)
		}
		running = append(running, server)
		go func() { failed <- server.Serve(listener) }()
	}
	log.Info("listening", "version", a.version, "port", *port, "host", a.host)

	for {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
		}
		if a.fault != "stubborn" {
			break
		}
		log.Info("SIGTERM ignored")
		ctx = context.Background()
	}
	log.Info("shutting down")
	a.ready.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), *grace)
	defer cancel()
	var errs []error
	for _, server := range running {
		errs = append(errs, server.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// check is podcli. It succeeds when the address answers below 400.
func check(args []string) int {
	if len(args) < 3 || args[0] != "check" || args[1] != "http" {
		fmt.Fprintln(os.Stderr, "usage: podcli check http HOST:PORT/PATH")
		return 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+args[len(args)-1], nil)
	if err != nil {
		fmt.Fprintf(os.Stderr, "podcli: %v\n", err)
		return 2
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fmt.Fprintf(os.Stderr, "podcli: %v\n", err)
		return 1
	}
	_ = response.Body.Close()
	if response.StatusCode >= 400 {
		fmt.Fprintf(os.Stderr, "podcli: %s\n", response.Status)
		return 1
	}
	return 0
}
