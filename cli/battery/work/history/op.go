package history

import (
	"fmt"
	"slices"
	"time"
)

// Kind is what an operation does to the thing that its key names.
type Kind string

// The kinds. A deleted register, and one that was never written, holds "".
const (
	Write    Kind = "write"    // a register gets Value; "" deletes it
	Read     Kind = "read"     // a register was seen to hold Value
	Use      Kind = "use"      // one of Limit uses of a counter is taken
	Revoke   Kind = "revoke"   // a permission ends
	Exercise Kind = "exercise" // something was done by a permission
)

// Outcome is what a caller knows about an operation when it is over.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // and nothing was done
	Unknown Outcome = "unknown" // it may have been done, or be done yet
)

// Op is one request, as its caller saw it.
type Op struct {
	Kind Kind   `json:"kind"`
	Key  string `json:"key"`
	// Node is the one that was asked. Fresh: it was asked for a linearizable answer.
	Node  string `json:"node"`
	Fresh bool   `json:"fresh,omitempty"`
	Value string `json:"value,omitempty"`
	Limit int    `json:"limit,omitempty"`
	// Call and Return are times since the history began, on the caller's monotonic clock.
	Call    time.Duration `json:"call"`
	Return  time.Duration `json:"return"`
	Outcome Outcome       `json:"outcome"`
	// Reason is why it is not done: a reason of docs/reasons.md, or empty where nobody said.
	Reason string `json:"reason,omitempty"`
}

// String tells the operation on one line.
func (o Op) String() string {
	fresh := ""
	if o.Fresh {
		fresh = ", linearizable"
	}
	return fmt.Sprintf("%s of %s %q at node %s%s, from %s to %s: %s %s",
		o.Kind, o.Key, o.Value, o.Node, fresh, o.Call.Round(time.Microsecond), o.Return.Round(time.Microsecond), o.Outcome, o.Reason)
}

// byKey sorts operations of some kinds by the thing that they are about.
func byKey(ops []Op, kinds ...Kind) map[string][]Op {
	keyed := map[string][]Op{}
	for _, op := range ops {
		if slices.Contains(kinds, op.Kind) {
			keyed[op.Key] = append(keyed[op.Key], op)
		}
	}
	return keyed
}
