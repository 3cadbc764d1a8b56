package work

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
)

// errDiffer says that two members' states are not the same at one index.
var errDiffer = errors.New("the states of two nodes differ at one index")

// states asks every node for the hash of its state until all were seen at one index, and holds those to each other.
func (c *Crew) states(t testing.TB) []error {
	t.Helper()
	nodes := map[string]*client.Client{}
	for _, n := range c.town.Nodes {
		nodes[n.ID] = c.town.Dial(t, n)
	}
	seen := map[uint64]map[string][]byte{} // by index, by node
	var wrong []error
	town.Eventually(t, "all nodes show their state at one index", time.Minute, func() error {
		for id, at := range nodes {
			status, err := at.System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			together := seen[status.GetStateIndex()]
			if together == nil {
				together = map[string][]byte{}
				seen[status.GetStateIndex()] = together
			}
			together[id] = status.GetStateHash()
			wrong = append(wrong, differ(status.GetStateIndex(), id, together)...)
			if len(together) == len(nodes) || len(wrong) > 0 {
				return nil
			}
		}
		return errors.New("they are at different indexes yet")
	})
	return wrong
}

// differ holds one node's hash to those of the others at an index.
func differ(index uint64, id string, together map[string][]byte) []error {
	for other, hash := range together {
		if !bytes.Equal(hash, together[id]) {
			return []error{fmt.Errorf("%w: %d, nodes %s and %s: %x and %x", errDiffer, index, id, other, together[id], hash)}
		}
	}
	return nil
}
