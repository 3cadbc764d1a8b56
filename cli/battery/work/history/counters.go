package history

import (
	"github.com/anishathalye/porcupine"
)

// UsedUp is the reason of a counter's refusal when nothing is left of it, and Refusal the one of a single-use token that
// is unknown, used or expired: the first is evidence, the second takes no use.
const (
	UsedUp  = "TOKEN_USED_UP"
	Refusal = "UNAUTHENTICATED"
)

// Counters holds the uses of each counter to its limit: no more successes than that, and none refused as used up while
// something was left. A use of unknown outcome, and one refused for another cause, may have been taken.
func Counters(ops []Op) []error {
	keyed := byKey(ops, Use)
	for key, ops := range keyed {
		var kept []Op
		for _, op := range ops {
			if op.Outcome == Refused && op.Reason == Refusal {
				continue
			}
			if op.Outcome == Refused && op.Reason != UsedUp {
				op.Outcome = Unknown
			}
			kept = append(kept, op)
		}
		keyed[key] = kept
	}
	return each(keyed, counter())
}

func counter() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, _ any) (bool, any) {
			op, taken := input.(Op), state.(int)
			switch op.Outcome {
			case Done:
				return taken < op.Limit, taken + 1
			case Refused:
				return taken == op.Limit, taken
			}
			return true, min(taken+1, op.Limit)
		},
	}
}
