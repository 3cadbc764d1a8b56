package history

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// patience is how long Porcupine may look for an order of one key's operations.
const patience = 2 * time.Minute

// each asks Porcupine about each key's operations by themselves, and names the keys that no order explains.
func each(keyed map[string][]Op, model porcupine.Model) []error {
	var wrong []error
	for _, key := range slices.Sorted(maps.Keys(keyed)) {
		ops := keyed[key]
		switch porcupine.CheckOperationsTimeout(model, events(ops), patience) {
		case porcupine.Ok:
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Errorf("%s: its %d operations are not linearizable: %s", key, len(ops), clue(model, ops)))
		case porcupine.Unknown:
			wrong = append(wrong, fmt.Errorf("%s: no order of its %d operations was found in %s: make the history shorter", key, len(ops), patience))
		}
	}
	return wrong
}

// events gives operations Porcupine's form. What may be done yet has no end.
func events(ops []Op) []porcupine.Operation {
	events := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		end := int64(op.Return)
		if op.Outcome == Unknown {
			end = math.MaxInt64
		}
		events[i] = porcupine.Operation{ClientId: i, Input: op, Call: int64(op.Call), Return: end}
	}
	return events
}

// clue finds the operation at which a history stops making sense: the one that returned first of those without which all
// that returned before it can be explained.
func clue(model porcupine.Model, ops []Op) string {
	sorted := slices.SortedStableFunc(slices.Values(ops), func(a, b Op) int { return int(a.Return - b.Return) })
	low, high := 0, len(sorted)
	for low < high {
		middle := (low + high) / 2
		if porcupine.CheckOperationsTimeout(model, events(until(sorted, middle)), patience) == porcupine.Illegal {
			high = middle
		} else {
			low = middle + 1
		}
	}
	if low == 0 || low > len(sorted) {
		return "nothing explains it"
	}
	return "none explains the " + sorted[low-1].String()
}

// until cuts a history after the first count operations that returned: of what was under way then, nobody knows.
func until(sorted []Op, count int) []Op {
	cut := slices.Clone(sorted[:count])
	if count == 0 {
		return cut
	}
	for _, op := range sorted[count:] {
		if op.Call < sorted[count-1].Return && op.Kind != Read && op.Kind != Exercise {
			op.Outcome = Unknown
			cut = append(cut, op)
		}
	}
	return cut
}
