package lab

import (
	"context"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Podinfo makes an image of the sample app e2e/lab/podinfo, laid out as the manifests of podinfo
// expect: ./podinfo in the working directory and podcli on PATH. The version is what /version
// answers. Further environment as NAME=value sets its colour or a fault: PODINFO_FAULT=crash is a
// version that ends at once, PODINFO_FAULT=unready one that never becomes ready. Every version has
// a digest of its own.
func Podinfo(ctx context.Context, version string, env ...string) (v1.Image, error) {
	program, err := Program(ctx, "e2e/lab/podinfo")
	if err != nil {
		return nil, err
	}
	return Recipe{
		Files: map[string]File{
			"/home/app/podinfo":     {From: program, Mode: 0o755},
			"/usr/local/bin/podcli": {Link: "/home/app/podinfo"},
			"/etc/passwd":           {Content: "root:x:0:0:root:/root:/bin/sh\napp:x:100:101:app:/home/app:/bin/sh\n"},
			"/etc/group":            {Content: "root:x:0:\napp:x:101:\n"},
		},
		Config: v1.Config{
			User:       "100:101",
			WorkingDir: "/home/app",
			Env:        slices.Concat([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PODINFO_VERSION=" + version}, env),
			Cmd:        []string{"./podinfo"},
		},
	}.Image()
}
