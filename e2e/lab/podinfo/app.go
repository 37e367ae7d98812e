package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// app answers the requests. Its plain fields are set before it serves.
type app struct {
	version, color, message, host, fault, cache string
	randomDelay, randomError                    bool

	ready, healthy atomic.Bool

	mu       sync.Mutex
	requests map[int]int // by status code
}

func (a *app) handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{
			"hostname": a.host, "version": a.version, "color": a.color, "message": a.message,
			"goos": runtime.GOOS, "goarch": runtime.GOARCH, "num_goroutine": strconv.Itoa(runtime.NumGoroutine()),
		})
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"version": a.version})
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, os.Environ()) })
	mux.HandleFunc("GET /headers", func(w http.ResponseWriter, r *http.Request) { reply(w, http.StatusOK, r.Header) })
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, r.Body)
	})
	mux.Handle("GET /healthz", a.state(&a.healthy))
	mux.Handle("GET /readyz", a.state(&a.ready))
	for path, state := range map[string]*atomic.Bool{"/readyz": &a.ready, "/healthz": &a.healthy} {
		for action, to := range map[string]bool{"/enable": true, "/disable": false} {
			mux.HandleFunc("POST "+path+action, func(w http.ResponseWriter, _ *http.Request) {
				// A version that is never ready stays so.
				state.Store(to && (a.fault != "unready" || path != "/readyz"))
				w.WriteHeader(http.StatusAccepted)
			})
		}
	}
	mux.HandleFunc("GET /delay/{seconds}", func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.ParseFloat(r.PathValue("seconds"), 64)
		if err != nil || seconds < 0 {
			reply(w, http.StatusBadRequest, map[string]string{"error": "want seconds, such as /delay/1.5"})
			return
		}
		select {
		case <-time.After(time.Duration(seconds * float64(time.Second))):
			reply(w, http.StatusOK, map[string]float64{"delay": seconds})
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			reply(w, http.StatusBadRequest, map[string]string{"error": "want a code from 200 to 599"})
			return
		}
		reply(w, code, map[string]int{"status": code})
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) {
		log.Error("asked to crash")
		os.Exit(255)
	})
	mux.HandleFunc("/cache/{key}", a.serveCache)
	mux.Handle("GET /metrics", a.metricsHandler())
	return a.count(log, mux)
}

func (a *app) state(of *atomic.Bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if of.Load() {
			reply(w, http.StatusOK, map[string]string{"status": "OK"})
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
}

// count logs and counts requests, and adds the random faults.
func (a *app) count(log *slog.Logger, next http.Handler) http.Handler {
	a.requests = make(map[int]int)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &statusWriter{ResponseWriter: w, code: http.StatusOK}
		probe := strings.HasSuffix(r.URL.Path, "z")
		if a.randomDelay && !probe {
			time.Sleep(rand.N(5 * time.Second))
		}
		if a.randomError && !probe && rand.N(3) == 0 {
			seen.WriteHeader(http.StatusInternalServerError)
		} else {
			next.ServeHTTP(seen, r)
		}
		a.mu.Lock()
		a.requests[seen.code]++
		a.mu.Unlock()
		log.Debug("request", "method", r.Method, "path", r.URL.Path, "code", seen.code)
	})
}

type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// metricsHandler writes the text format of Prometheus.
func (a *app) metricsHandler() http.Handler {
	start := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		requests := maps.Clone(a.requests)
		a.mu.Unlock()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = fmt.Fprintf(w, "# TYPE http_requests_total counter\n")
		for _, code := range slices.Sorted(maps.Keys(requests)) {
			_, _ = fmt.Fprintf(w, "http_requests_total{status=\"%d\"} %d\n", code, requests[code])
		}
		_, _ = fmt.Fprintf(w, "# TYPE podinfo_build_info gauge\npodinfo_build_info{version=%q} 1\n", a.version)
		_, _ = fmt.Fprintf(w, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %.3f\n", float64(start.UnixMilli())/1000)
	})
}

// serveCache keeps values in Redis, over its own protocol.
func (a *app) serveCache(w http.ResponseWriter, r *http.Request) {
	var command []string
	key := r.PathValue("key")
	switch r.Method {
	case http.MethodGet:
		command = []string{"GET", key}
	case http.MethodDelete:
		command = []string{"DEL", key}
	case http.MethodPost, http.MethodPut:
		value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		command = []string{"SET", key, string(value)}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	value, err := redis(r.Context(), a.cache, command)
	switch {
	case errors.Is(err, errNil):
		reply(w, http.StatusNotFound, map[string]string{"error": "no such key"})
	case err != nil:
		reply(w, http.StatusBadGateway, map[string]string{"error": err.Error()})
	case r.Method == http.MethodGet:
		_, _ = io.WriteString(w, value)
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

var errNil = errors.New("nil reply")

// redis runs one command and returns its reply as text.
func redis(ctx context.Context, address string, command []string) (string, error) {
	host, ok := strings.CutPrefix(address, "tcp://")
	if !ok {
		return "", errors.New("start with --cache-server=tcp://host:port")
	}
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	request := fmt.Appendf(nil, "*%d\r\n", len(command))
	for _, word := range command {
		request = fmt.Appendf(request, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := conn.Write(request); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, rest := line[0], strings.TrimSpace(line[1:])
	switch kind {
	case '+', ':':
		return rest, nil
	case '$':
		n, err := strconv.Atoi(rest)
		if err != nil || n > 1<<20 {
			return "", fmt.Errorf("redis: unexpected reply %q", line)
		}
		if n < 0 {
			return "", errNil
		}
		value := make([]byte, n)
		_, err = io.ReadFull(in, value)
		return string(value), err
	default:
		return "", fmt.Errorf("redis: %s", strings.TrimSpace(line))
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	if code == http.StatusNoContent || code == http.StatusNotModified {
		return
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(body)
}
