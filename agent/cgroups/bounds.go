package cgroups

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Bounds are limits on all pods together; 0 is none.
type Bounds struct {
	MilliCPU int64
	Memory   int64 // bytes
}

// Bounds reads what the groups above the pods, or the pods' root itself, are limited to: that of a
// container in which the node runs, or one that somebody set on the root. The agent sets none.
func (g *Groups) Bounds() Bounds {
	var b Bounds
	for _, h := range g.hierarchies {
		dir := h.Mount
		b.tighten(h, dir)
		for step := range strings.SplitSeq(strings.Trim(g.root, "/"), "/") {
			dir = filepath.Join(dir, step)
			b.tighten(h, dir)
		}
	}
	return b
}

// tighten takes in the limits of one group. A file that is not there is no limit.
func (b *Bounds) tighten(h Hierarchy, dir string) {
	if h.V2 || slices.Contains(h.Controllers, "memory") {
		file := "memory.limit_in_bytes"
		if h.V2 {
			file = "memory.max"
		}
		b.Memory = tighter(b.Memory, number(read(dir, file)))
	}
	if h.V2 || slices.Contains(h.Controllers, "cpu") {
		fields := []string{read(dir, "cpu.cfs_quota_us"), read(dir, "cpu.cfs_period_us")}
		if h.V2 {
			fields = strings.Fields(read(dir, "cpu.max"))
		}
		if len(fields) == 2 && number(fields[1]) > 0 {
			b.MilliCPU = tighter(b.MilliCPU, number(fields[0])*1000/number(fields[1]))
		}
	}
}

func tighter(a, b int64) int64 {
	if a <= 0 || b > 0 && b < a {
		return max(b, 0)
	}
	return a
}

func read(dir, file string) string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// number is 0 for what is no number, such as "max".
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
