package history

import (
	"fmt"
	"maps"
	"slices"
)

// Answers holds the audit logs to the answers: each request that node answered, by its id, has exactly one record, in
// the log of that node. recorded counts the records of each id in each node's log. A node without a log is not looked at.
func Answers(answered map[string][]string, recorded map[string]map[string]int) []error {
	var wrong []error
	for _, node := range slices.Sorted(maps.Keys(answered)) {
		log, known := recorded[node]
		if !known {
			continue
		}
		for _, id := range answered[node] {
			if log[id] != 1 {
				wrong = append(wrong, fmt.Errorf("request %s, which node %s answered, has %d records in its audit log", id, node, log[id]))
			}
			for _, other := range slices.Sorted(maps.Keys(recorded)) {
				if other != node && recorded[other][id] > 0 {
					wrong = append(wrong, fmt.Errorf("request %s, which node %s answered, is recorded by node %s", id, node, other))
				}
			}
		}
	}
	return wrong
}
