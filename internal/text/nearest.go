package text

import "strings"

// Nearest returns the name that written probably means: the one with the fewest
// edits between them, if there are at most three, and at most one for every three
// letters (one is always allowed). Names are in lower case; the case of written does
// not count. It returns "" if no name is near enough.
func Nearest(written string, names []string) string {
	written = strings.ToLower(written)
	nearest, fewest := "", 1+max(1, min(len(written)/3, 3))
	for _, name := range names {
		if max(len(name)-len(written), len(written)-len(name)) >= fewest {
			continue
		}
		if n := edits(written, name); n < fewest {
			nearest, fewest = name, n
		}
	}
	return nearest
}

// edits returns how many bytes of a have to be inserted, deleted, replaced or swapped
// with their neighbour to get b (the optimal string alignment distance).
func edits(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, replaced)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
