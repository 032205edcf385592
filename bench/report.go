package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A report collects the rounds and prints their medians.
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

// write prints, in Markdown, two tables for the README: all figures, and the cost of
// postern in multiples of the floors. A table for each scenario follows.
func (r *report) write(w io.Writer) {
	r.writeSummary(w)
	r.writeFloors(w)
	for _, sc := range scenarios {
		if rows := r.of(sc); len(rows) > 0 {
			writeScenario(w, sc, rows)
		}
	}
}

// writeSummary prints a line for each server: for each scenario the median,
// minimum and maximum, and the median divided by postern's.
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

// writeFloors prints a line for each floor: postern's median divided by that of
// the floor.
func (r *report) writeFloors(w io.Writer) {
	head, rule := "| postern in multiples of", "|---|"
	lines := make(map[string]string)
	for _, sc := range scenarios {
		rows := r.of(sc)
		if !slices.ContainsFunc(rows, func(r row) bool { return r.server.floor && r.inverse(rows) != "-" }) {
			continue
		}
		head, rule = head+" | "+sc.name, rule+"--:|"
		for _, s := range servers {
			lines[s.name] += " | " + inverseCell(rows, s)
		}
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s |\n%s\n", head, rule)
	for _, s := range servers {
		if s.floor && strings.Trim(lines[s.name], "| ") != "" {
			fmt.Fprintf(w, "| %s%s |\n", s.title, lines[s.name])
		}
	}
}

func inverseCell(rows []row, s server) string {
	for _, row := range rows {
		if row.server.name == s.name {
			return row.inverse(rows)
		}
	}
	return ""
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

// ratio is r's figure divided by postern's, or "-".
func (r row) ratio(rows []row) string { return times(r.median().figure, posternIn(rows)) }

// inverse is postern's figure divided by r's, or "-".
func (r row) inverse(rows []row) string { return times(posternIn(rows), r.median().figure) }

// posternIn returns postern's figure, or 0 if it was not measured.
func posternIn(rows []row) float64 {
	for _, row := range rows {
		if row.server.name == "postern" {
			return row.median().figure
		}
	}
	return 0
}

// times formats the ratio of two figures; it is "-" if one of them is missing.
func times(a, b float64) string {
	if a <= 0 || b <= 0 {
		return "-"
	}
	ratio, digits := a/b, 0
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

// median returns the round whose figure is the median.
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

// figure formats f without insignificant digits.
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
