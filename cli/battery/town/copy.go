package town

import (
	"os"
	"path/filepath"
	"testing"
)

// Copy makes a node of the same name out of a copy of everything that one keeps, as it lies on the disk at one moment: its
// data and its token. It has a folder and addresses of its own, as on another machine, and does not run; it is no part of
// the town. lines gives those of its configuration.
func (town *Town) Copy(t testing.TB, n *Node, lines func(testing.TB, *Node, *Node) string) *Node {
	t.Helper()
	dir, err := os.MkdirTemp(town.Dir, n.ID+"-copy-")
	if err != nil {
		t.Fatal(err)
	}
	twin := &Node{
		ID: n.ID, Dir: dir, Data: filepath.Join(dir, "data"), API: FreeAddress(t), Peer: FreeAddress(t), Metrics: FreeAddress(t), Binary: n.Binary,
	}
	if n.Ended() == nil { // a machine's disk is copied at one moment
		n.Pause()
		defer n.Resume()
	}
	command(t, nil, "cp", "-a", "--sparse=always", n.Data, twin.Data)
	twin.configure(t, town.plan, lines(t, n, twin))
	t.Cleanup(func() { twin.bury(t) })
	return twin
}
