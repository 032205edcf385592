package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// A report collects the rounds and shows their medians.
type report struct{ rows []row }

type row struct {
	scenario scenario
	server   string
	rounds   []measure
}

func (r *report) add(sc scenario, s server, m measure) {
	if n := len(r.rows); n > 0 && r.rows[n-1].scenario.name == sc.name && r.rows[n-1].server == s.name {
		r.rows[n-1].rounds = append(r.rows[n-1].rounds, m)
		return
	}
	r.rows = append(r.rows, row{sc, s.name, []measure{m}})
}

// write prints one table in Markdown for each scenario.
func (r *report) write(w io.Writer) {
	for _, sc := range scenarios {
		var rows []row
		for _, row := range r.rows {
			if row.scenario.name == sc.name {
				rows = append(rows, row)
			}
		}
		if len(rows) > 0 {
			writeScenario(w, sc, rows)
		}
	}
}

func writeScenario(w io.Writer, sc scenario, rows []row) {
	ours := 0.0
	for _, row := range rows {
		if row.server == "postern" {
			ours = row.median().figure
		}
	}
	fmt.Fprintf(w, "\n%s: %s\n\n", sc.name, sc.what)
	fmt.Fprintf(w, "| | %s | min - max | times postern | per second | p50 | p99 | |\n|---|--:|--:|--:|--:|--:|--:|---|\n", sc.unit)
	for _, row := range rows {
		m, ratio := row.median(), "-"
		if ours > 0 {
			ratio = fmt.Sprintf("%.2f", m.figure/ours)
		}
		low, high := row.spread()
		fmt.Fprintf(w, "| %s | %s | %s - %s | %s | %s | %s | %s | %s |\n", row.server, figure(m.figure),
			figure(low), figure(high), ratio, figure(m.rate), millis(m.p50), millis(m.p99), m.remark)
	}
}

// median is the round whose figure is in the middle.
func (r row) median() measure {
	all := slices.SortedFunc(slices.Values(r.rounds), func(a, b measure) int { return int(a.figure*10) - int(b.figure*10) })
	return all[(len(all)-1)/2]
}

func (r row) spread() (low, high float64) {
	low, high = r.rounds[0].figure, r.rounds[0].figure
	for _, m := range r.rounds {
		low, high = min(low, m.figure), max(high, m.figure)
	}
	return low, high
}

// figure leaves out digits that mean nothing.
func figure(f float64) string {
	if f == 0 {
		return "-"
	}
	if f < 100 {
		return fmt.Sprintf("%.1f", f)
	}
	digits := fmt.Sprintf("%.0f", f)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func millis(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
