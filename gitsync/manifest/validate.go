package manifest

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/policy"
)

// Report is what Validate found.
type Report struct {
	Cluster  *Cluster // nil when the folder is no config repository, or its own files are wrong
	Apps     []AppReport
	Problems []Problem // of the cluster's own files
}

// AppReport is one app of a report.
type AppReport struct {
	App    v1alpha1.App
	Result *Result
}

// OK says that nothing would be refused. Warnings do not count.
func (r Report) OK() bool {
	for _, a := range r.Apps {
		if len(a.Result.Errors) > 0 {
			return false
		}
	}
	return len(r.Problems) == 0
}

// Validate checks a config repository offline: the cluster's own files and every app. A folder without
// pleach.yaml is checked as manifests alone: the topmost folders that hold a kustomization or manifests
// are its apps, each with all that lies below.
func Validate(tree fs.FS) Report {
	var rep Report
	var l Loader
	_, err := fs.Stat(tree, v1alpha1.ClusterFile)
	if errors.Is(err, fs.ErrNotExist) {
		none := &v1alpha1.Cluster{Spec: v1alpha1.ClusterSpec{Version: Versions[len(Versions)-1]}}
		folders, err := appFolders(newReader(tree), ".")
		if err != nil {
			rep.Problems = append(rep.Problems, Problem{Path: ".", Reason: err.Error()})
		}
		for _, dir := range folders {
			app := v1alpha1.App{Name: dir, Path: dir}
			rep.Apps = append(rep.Apps, AppReport{app, l.Load(tree, none, app)})
		}
		return rep
	}
	cluster, problems := LoadCluster(tree)
	rep.Cluster, rep.Problems = cluster, append(problems, checkPolicies(tree)...)
	if cluster == nil {
		// The apps are checked all the same when pleach.yaml says where they are.
		c := clusterLoader{r: newReader(tree), out: &Cluster{}}
		if c.spec(); len(c.problems) > 0 {
			return rep
		}
		cluster = c.out
	}
	for _, app := range cluster.Spec.Spec.Apps {
		rep.Apps = append(rep.Apps, AppReport{app, l.Load(tree, &cluster.Spec, app)})
	}
	return rep
}

// checkPolicies compiles the policies.
func checkPolicies(tree fs.FS) (problems []Problem) {
	l := clusterLoader{r: newReader(tree), out: &Cluster{Policies: map[string][]byte{}}}
	l.policies(PoliciesDir) // LoadCluster has reported what cannot be read
	_, errs := policy.Prepare(l.out.Policies)
	for _, e := range errs {
		problems = append(problems, Problem{Path: e.Path, Line: e.Line, Reason: e.Reason})
	}
	return problems
}

// appFolders lists the topmost folders that hold a kustomization or manifests, sorted.
func appFolders(r *reader, dir string) (folders []string, err error) {
	name, err := kustomizationIn(r, dir)
	if err != nil {
		return nil, err
	}
	if name != "" {
		return []string{dir}, nil
	}
	entries, err := r.readDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			below, err := appFolders(r, p)
			if err != nil {
				return nil, err
			}
			folders = append(folders, below...)
		case isManifest(p):
			return []string{dir}, nil
		}
	}
	return folders, nil
}
