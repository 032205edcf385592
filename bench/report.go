package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A report collects the rounds and shows their medians.
type report struct{ rows []row }

type row struct {
	scenario scenario
	server   server
	rounds   []measure
}

func (r *report) add(sc scenario, s server, rounds []measure) {
	if len(rounds) > 0 {
		r.rows = append(r.rows, row{sc, s, rounds})
	}
}

// of returns the rows of a scenario.
func (r *report) of(sc scenario) []row {
	var rows []row
	for _, row := range r.rows {
		if row.scenario.name == sc.name {
			rows = append(rows, row)
		}
	}
	return rows
}

// write prints, in Markdown, a table of everything for the README, and then one
// for each scenario.
func (r *report) write(w io.Writer) {
	r.writeSummary(w)
	for _, sc := range scenarios {
		if rows := r.of(sc); len(rows) > 0 {
			writeScenario(w, sc, rows)
		}
	}
}

// writeSummary has a line for each server: of each scenario the median, the least
// and the most, and how many times postern's it is.
func (r *report) writeSummary(w io.Writer) {
	head, rule := "|", "|---|"
	lines := make([]string, len(servers))
	for _, sc := range scenarios {
		rows := r.of(sc)
		if len(rows) == 0 {
			continue
		}
		head, rule = head+" | "+sc.name+", "+sc.unit, rule+"--:|"
		if sc.alone {
			head, rule = head+" | "+sc.name+", p50", rule+"--:|"
		}
		for i, s := range servers {
			lines[i] += " | " + cell(rows, s)
			if sc.alone {
				lines[i] += " | " + latency(rows, s)
			}
		}
	}
	if len(r.rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s |\n%s\n", head, rule)
	for i, s := range servers {
		if strings.Trim(lines[i], "| ") != "" {
			fmt.Fprintf(w, "| %s%s |\n", s.title, lines[i])
		}
	}
}

func cell(rows []row, s server) string {
	for _, row := range rows {
		if row.server.name != s.name {
			continue
		}
		text := figure(row.median().figure)
		if low, high := row.spread(); len(row.rounds) > 1 {
			text += fmt.Sprintf(" (%s-%s)", figure(low), figure(high))
		}
		if ratio := row.ratio(rows); ratio != "-" && s.name != "postern" {
			text += " ×" + ratio
		}
		return text
	}
	return ""
}

func latency(rows []row, s server) string {
	for _, row := range rows {
		if row.server.name == s.name {
			return millis(row.median().p50)
		}
	}
	return ""
}

// ratio is how many times postern's figure it is.
func (r row) ratio(rows []row) string {
	for _, row := range rows {
		if ours := row.median().figure; row.server.name == "postern" && ours > 0 {
			return times(r.median().figure / ours)
		}
	}
	return "-"
}

func times(ratio float64) string {
	digits := 0
	switch {
	case ratio < 1:
		digits = 2
	case ratio < 10:
		digits = 1
	}
	return strconv.FormatFloat(ratio, 'f', digits, 64)
}

func writeScenario(w io.Writer, sc scenario, rows []row) {
	fmt.Fprintf(w, "\n%s: %s\n\n", sc.name, sc.what)
	fmt.Fprintf(w, "| | %s | min - max | times postern | per second | p50 | p99 | |\n|---|--:|--:|--:|--:|--:|--:|---|\n", sc.unit)
	for _, row := range rows {
		m := row.median()
		low, high := row.spread()
		fmt.Fprintf(w, "| %s | %s | %s - %s | %s | %s | %s | %s | %s |\n", row.server.title, figure(m.figure),
			figure(low), figure(high), row.ratio(rows), figure(m.rate), millis(m.p50), millis(m.p99), m.remark)
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
