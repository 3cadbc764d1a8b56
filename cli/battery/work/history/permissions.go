package history

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Revoked are the reasons which say that a permission was taken away. Others say nothing of it.
func Revoked() []string {
	return []string{"TOKEN_REVOKED", "CERTIFICATE_WRONG_KEY", "PERMISSION_DENIED"}
}

// Permissions holds what was done by permissions to their revocations. From the acknowledgement on nothing new succeeds
// on the node that revoked, nor anywhere for who asks linearizably, nor after the bound anywhere. Requests that ask
// linearizably are linearizable with the revocation, too: what was once refused as revoked stays so.
func Permissions(ops []Op, bound time.Duration) []error {
	var wrong []error
	keyed := byKey(ops, Revoke, Exercise)
	for _, key := range slices.Sorted(maps.Keys(keyed)) {
		for _, revoke := range byKey(keyed[key], Revoke)[key] {
			for _, exercise := range byKey(keyed[key], Exercise)[key] {
				if revoke.Outcome == Done && exercise.Outcome == Done && exercise.Call >= holds(revoke, exercise, bound) {
					wrong = append(wrong, fmt.Errorf("%s: after the %s", exercise, revoke))
				}
			}
		}
		keyed[key] = decided(keyed[key])
	}
	return append(wrong, each(keyed, permission())...)
}

// holds is from when on a revocation must hold for a request.
func holds(revoke, exercise Op, bound time.Duration) time.Duration {
	if exercise.Fresh || exercise.Node == revoke.Node {
		return revoke.Return
	}
	return revoke.Return + bound
}

// decided keeps what a permission can be held to linearizably.
func decided(ops []Op) []Op {
	return slices.DeleteFunc(slices.Clone(ops), func(op Op) bool {
		if op.Kind == Revoke {
			return op.Outcome == Refused
		}
		return !op.Fresh || op.Outcome == Unknown || op.Outcome == Refused && !slices.Contains(Revoked(), op.Reason)
	})
}

func permission() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return true },
		Step: func(state, input, _ any) (bool, any) {
			op, given := input.(Op), state.(bool)
			if op.Kind == Revoke {
				return true, false
			}
			return given == (op.Outcome == Done), given
		},
	}
}
