package keystore

import "fmt"

// State is the state of one version (after NIST SP 800-57 part 1 rev. 5, section 7).
type State uint8

// The states. An entry has at most one active version. The numbers are on disk; they never change.
const (
	Pending   State = 1 // there, and not used until it is made active
	Active    State = 2 // used
	Retired   State = 3 // no longer used; it can be made active again
	Destroyed State = 4 // its material is gone for ever
)

// transitions says which state (row) may become which (column).
var transitions = [Destroyed + 1][Destroyed + 1]bool{
	Pending:   {Active: true, Destroyed: true},
	Active:    {Retired: true, Destroyed: true},
	Retired:   {Active: true, Destroyed: true},
	Destroyed: {},
}

// String names the state.
func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Active:
		return "active"
	case Retired:
		return "retired"
	case Destroyed:
		return "destroyed"
	default:
		return fmt.Sprintf("state(%d)", uint8(s))
	}
}

// MayBecome reports whether the table of transitions allows the change. No state becomes itself.
func (s State) MayBecome(next State) bool {
	return s <= Destroyed && next <= Destroyed && transitions[s][next]
}
