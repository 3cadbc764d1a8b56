package keystore

import "fmt"

// State is the state of one version (NIST SP 800-57 part 1 rev. 5, section 7).
type State uint8

// The states. An entry has at most one active version.
const (
	Pending State = iota + 1
	Active
	Retired
	Destroyed
)

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
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MayBecome is the table of transitions: every other is refused.
func (s State) MayBecome(next State) bool {
	switch s {
	case Pending:
		return next == Active || next == Destroyed
	case Active:
		return next == Retired || next == Destroyed
	case Retired:
		return next == Active || next == Destroyed
	default:
		return false
	}
}
