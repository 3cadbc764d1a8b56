//go:build battery

package speed_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// series are the figures of one thing in the rounds of a run.
type series []figures

// of gives a figure in every round, sorted.
func (s series) of(what func(figures) float64) []float64 {
	var all []float64
	for _, f := range s {
		all = append(all, what(f))
	}
	slices.Sort(all)
	return all
}

func median(sorted []float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

// spread writes a median and, where there are several values, the least and the greatest.
func spread(values []float64) string {
	values = slices.Sorted(slices.Values(values))
	if len(values) < 2 {
		return number(median(values))
	}
	return fmt.Sprintf("%s (%s to %s)", number(median(values)), number(values[0]), number(values[len(values)-1]))
}

// number writes a figure with as many digits as it deserves.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func cpu(f figures) float64         { return f.cpu }
func perSecond(f figures) float64   { return f.perSecond }
func allocations(f figures) float64 { return f.allocations }
func p50(f figures) float64         { return f.p50 }
func p99(f figures) float64         { return f.p99 }
func p999(f figures) float64        { return f.p999 }

// ratios divides round by round: what was measured together is held against each other.
func ratios(work, floor []float64) []float64 {
	var all []float64
	for i := range min(len(work), len(floor)) {
		all = append(all, work[i]/floor[i])
	}
	return all
}

// inRounds gives a figure in every round, in their order.
func (s series) inRounds(what func(figures) float64) []float64 {
	var all []float64
	for _, f := range s {
		all = append(all, what(f))
	}
	return all
}

// table is one table of the report.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (r *table) add(cells ...string) { r.rows = append(r.rows, cells) }

// String writes it in Markdown.
func (r *table) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "### %s\n\n| %s |\n|%s\n", r.title, strings.Join(r.head, " | "), strings.Repeat(" --- |", len(r.head)))
	for _, row := range r.rows {
		fmt.Fprintf(&text, "| %s |\n", strings.Join(row, " | "))
	}
	return text.String()
}

// show writes a table into the test's log, and into the report.
func (r *table) show(t testing.TB) {
	t.Helper()
	t.Logf("\n%s", r)
	appendReport(t, r.String()+"\n")
}
