package town

import (
	"slices"
	"testing"
)

// Add starts one more node, of the town's plan. It belongs to no cluster yet: see [Town.Join].
func (town *Town) Add(t testing.TB) *Node {
	t.Helper()
	n := town.build(t)
	town.Nodes = append(town.Nodes, n)
	return n
}

// Leave makes a node no part of the town any more. Its process goes on, and ends with the test.
func (town *Town) Leave(gone *Node) {
	town.Nodes = slices.DeleteFunc(slices.Clone(town.Nodes), func(n *Node) bool { return n == gone })
}
