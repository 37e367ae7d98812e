package node_test

import (
	"context"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pleachdev/pleach/e2e/lab"
)

// versions of the sample app, by tag, with what is wrong with them.
var versions = map[string]string{
	"6.14.1": "", "6.14.2": "", "6.14.3": "", "crashing": "crash", "unready": "unready",
}

// missing is a version that nobody built.
const missing = "6.66.6"

// images are the images of every flock, under their names in the registry.
var images = sync.OnceValues(func() (map[string]v1.Image, error) {
	ctx := context.Background()
	all := map[string]v1.Image{}
	for version, fault := range versions {
		var env []string
		if fault != "" {
			env = append(env, "PODINFO_FAULT="+fault)
		}
		image, err := lab.Podinfo(ctx, version, env...)
		if err != nil {
			return nil, err
		}
		all["stefanprodan/podinfo:"+version] = image
	}
	busybox, err := lab.Busybox(ctx)
	if err != nil {
		return nil, err
	}
	files := map[string]lab.File{"/bin/busybox": {From: busybox, Mode: 0o755}, "/tmp/.keep": {}}
	for _, tool := range []string{"sh", "cat", "echo", "sleep", "ls", "id", "env", "mount", "hostname", "true", "false"} {
		files["/bin/"+tool] = lab.File{Link: "busybox"}
	}
	all["library/box:1"], err = lab.Recipe{Files: files, Config: v1.Config{Env: []string{"PATH=/bin"}}}.Image()
	return all, err
})

func (f *flock) pushImages() {
	f.t.Helper()
	all, err := images()
	must(f.t, err)
	for name, image := range all {
		_, err := f.registry.Push(f.t.Context(), name, image)
		must(f.t, err)
	}
}
