package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// table collects the rows of all benchmarks.
type table struct{ rows []row }

type row struct {
	benchmark, figure, measured, goal, verdict string
}

// add adds a figure without a goal.
func (t *table) add(benchmark, figure, measured string) {
	t.rows = append(t.rows, row{benchmark, figure, measured, "", ""})
}

// judge adds a figure with a goal.
func (t *table) judge(benchmark, figure, measured, goal string, met bool) {
	verdict := "missed"
	if met {
		verdict = "met"
	}
	t.rows = append(t.rows, row{benchmark, figure, measured, goal, verdict})
}

// print writes the table in Markdown, with the columns one below another for people.
func (t *table) print(w io.Writer) {
	rows := slices.Concat([]row{{"benchmark", "figure", "measured", "goal", ""}}, t.rows)
	columns := func(r row) [5]string { return [5]string{r.benchmark, r.figure, r.measured, r.goal, r.verdict} }
	var width [5]int
	for _, r := range rows {
		for i, cell := range columns(r) {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for n, r := range rows {
		for i, cell := range columns(r) {
			fmt.Fprintf(w, "| %s%s ", cell, strings.Repeat(" ", width[i]-len([]rune(cell))))
		}
		fmt.Fprintln(w, "|")
		if n == 0 {
			for i := range width {
				fmt.Fprintf(w, "|%s", strings.Repeat("-", width[i]+2))
			}
			fmt.Fprintln(w, "|")
		}
	}
}

// quantile is the p-th quantile of the times, by the nearest rank.
func quantile(times []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	if len(sorted) == 0 {
		return 0
	}
	rank := int(p*float64(len(sorted)) + 0.9999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func mean(times []time.Duration) time.Duration {
	var sum time.Duration
	for _, t := range times {
		sum += t
	}
	return sum / time.Duration(max(len(times), 1))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// fine is for what takes less than a second.
func fine(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// machine describes where the figures come from.
func machine() string {
	model := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	var name unix.Utsname
	kernel := "unknown"
	if err := unix.Uname(&name); err == nil {
		kernel = string(bytes.TrimRight(name.Release[:], "\x00"))
	}
	var memory unix.Sysinfo_t
	_ = unix.Sysinfo(&memory) // zero says that it is not known
	return fmt.Sprintf("%s, %d cores, %d GB, Linux %s", model, runtime.NumCPU(), memory.Totalram*uint64(memory.Unit)/1e9, kernel)
}

// loadAverage is that of the last minute.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
