package history

import (
	"github.com/anishathalye/porcupine"
)

// Registers holds what was written and read linearizably to being linearizable. Values but "" are unique.
func Registers(ops []Op) []error {
	keyed := byKey(ops, Write, Read)
	for key, ops := range keyed {
		keyed[key] = relevant(ops)
	}
	return each(keyed, register())
}

// relevant leaves out what tells nothing: what was refused, answers that may be old (see [Stale]), reads without an
// answer, and writes of unknown outcome whose value nobody ever saw.
func relevant(ops []Op) []Op {
	seen := map[string]bool{"": true}
	for _, op := range ops {
		if op.Kind == Read && op.Fresh && op.Outcome == Done {
			seen[op.Value] = true
		}
	}
	var kept []Op
	for _, op := range ops {
		switch {
		case op.Kind == Write && op.Outcome == Done,
			op.Kind == Write && op.Outcome == Unknown && seen[op.Value],
			op.Kind == Read && op.Fresh && op.Outcome == Done:
			kept = append(kept, op)
		}
	}
	return kept
}

func register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, _ any) (bool, any) {
			op := input.(Op)
			if op.Kind == Write {
				return true, op.Value
			}
			return op.Value == state.(string), state
		},
	}
}
