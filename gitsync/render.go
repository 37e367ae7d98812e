package gitsync

import (
	"io/fs"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// render loads an app of a tree.
func render(l *manifest.Loader, tree fs.FS, cluster *v1alpha1.Cluster, app v1alpha1.App) *rendering {
	res := l.Load(tree, cluster, app)
	r := &rendering{
		app: app, version: cluster.Spec.Version, trace: res.Trace,
		objects: res.Objects, errors: res.Errors, warns: res.Warnings,
	}
	if len(res.Errors) > 0 {
		return r
	}
	r.digests = make(map[string]string, len(res.Objects))
	for _, o := range res.Objects {
		r.digests[objectKey(o.Object)] = o.Digest
	}
	return r
}
