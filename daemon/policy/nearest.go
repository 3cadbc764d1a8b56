package policy

import (
	"slices"
	"strings"
)

// nearest makes a hint of the known word closest to a wrong one, or of all of them
// when none is close and they are few.
func nearest(word string, known []string) string {
	best, least := "", 3+len(word)/6
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	all := slices.Compact(slices.Sorted(slices.Values(known)))
	if len(all) > 20 {
		return "see the table of actions"
	}
	return "one of " + strings.Join(all, ", ")
}

// distance is the Levenshtein distance in bytes, of words cut to 64.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
