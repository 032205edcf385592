package policy

import "strings"

// maxEdits is how far a name may be from another to be taken for a slip of
// the finger.
const maxEdits = 3

// nearest returns the name that was probably meant: the one that begins with
// what was written, if it is the only one, or else the one with the fewest
// edits between them. It is empty if nothing is near.
func nearest(written string, names []string) string {
	written = strings.ToLower(written)
	if name := onlyWithPrefix(written, names); name != "" {
		return name
	}
	best, fewest := "", min(maxEdits, len(written)/2)+1
	for _, name := range names {
		if abs(len(name)-len(written)) >= fewest {
			continue
		}
		if n := edits(written, name); n < fewest {
			best, fewest = name, n
		}
	}
	return best
}

func onlyWithPrefix(prefix string, names []string) string {
	found := ""
	for _, name := range names {
		if len(prefix) < maxEdits || !strings.HasPrefix(name, prefix) {
			continue
		}
		if found != "" {
			return ""
		}
		found = name
	}
	return found
}

// edits is the Levenshtein distance: how many bytes to insert, delete or
// replace.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func abs(n int) int { return max(n, -n) }
