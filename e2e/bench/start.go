package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// start measures the first start of a node, from "pleach agent" on an empty disk to its first pod,
// and what the command line and the program cost.
func (f *flock) start() error {
	if err := f.node.Start(f.ctx); err != nil {
		return err
	}
	d := deployment{"first", 1, "1"}
	f.write(d)
	f.commit("deploy " + d.name)
	f.repo.Push()
	began := time.Now()
	if _, err := f.startAgent(); err != nil {
		return err
	}
	if err := f.await("the agent answers", func(ctx context.Context) error {
		_, err := f.api.Status(ctx)
		return err
	}); err != nil {
		return err
	}
	answers := time.Since(began)
	watched := f.watch(f.ctx, d)
	defer watched.cancel()
	if _, err := watched.ready(1, d.version); err != nil {
		return err
	}
	ready := time.Since(began)
	var commands []time.Duration
	for range f.count(20, 3) {
		began := time.Now()
		if _, err := f.node.Exec(f.ctx, f.pleach, "get", "pods", "--namespace", "bench"); err != nil {
			return err
		}
		commands = append(commands, time.Since(began))
	}
	size, packed, err := sizes(f.pleach)
	if err != nil {
		return err
	}
	f.table.add("start", "empty disk → the agent's API answers", seconds(answers))
	f.table.add("start", "empty disk → first pod Ready, image pulled", seconds(ready))
	f.table.add("start", "pleach get pods, p50", millis(quantile(commands, .5)))
	f.table.add("start", "size of pleach, all included", fmt.Sprintf("%s (%s packed with zstd)", megabytes(size), megabytes(packed)))
	return f.remove(d)
}

// sizes of a program as it is and as it would be downloaded.
func sizes(path string) (plain, packed int64, err error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	count := new(counter)
	w, err := zstd.NewWriter(count, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return 0, 0, err
	}
	if plain, err = io.Copy(w, file); err != nil {
		return 0, 0, err
	}
	err = w.Close()
	return plain, int64(*count), err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
