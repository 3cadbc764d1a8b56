//go:build battery && root

package battery_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// powered is a town whose nodes have a disk of their own, with everything that a node keeps: its data and the software
// token in it.
type powered struct {
	*town.Town
	disks map[*town.Node]*town.Disk
}

func newPowered(t *testing.T, kind string, size int64) *powered {
	t.Helper()
	p := &powered{disks: map[*town.Node]*town.Disk{}}
	p.Town = town.New(t, town.Plan{Prepare: p.prepare(kind, size)})
	return p
}

// prepare is a Plan's: it gives each node its disk.
func (p *powered) prepare(kind string, size int64) func(testing.TB, int, *town.Node) {
	return p.on(func(t testing.TB) *town.Disk { return town.NewDisk(t, kind, size) })
}

// on is a Plan's Prepare for disks of any make.
func (p *powered) on(make func(testing.TB) *town.Disk) func(testing.TB, int, *town.Node) {
	return func(t testing.TB, _ int, n *town.Node) {
		disk := make(t)
		p.disks[n], n.Data = disk, filepath.Join(disk.Dir, "data")
	}
}

// cut cuts the power of some nodes at one moment, and gives it back.
func (p *powered) cut(t *testing.T, victims ...*town.Node) {
	t.Helper()
	for _, n := range victims {
		p.disks[n].Cut(t)
	}
	for _, n := range victims {
		n.Kill()
		p.disks[n].Unmount(t)
		p.disks[n].Mount(t)
	}
	for _, n := range victims {
		n.Start(t)
	}
	for _, n := range victims {
		p.Ready(t, n)
	}
}

// TestPower cuts the power of nodes at any moment, callers at work: of the leader, of any one, and of all at once.
// Everything that was acknowledged is there afterwards, and every node starts.
func TestPower(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			p := newPowered(t, kind, 400)
			random := town.Random(t)
			crew := work.Start(t, p.Town)
			for round := range 12 {
				crew.Await(t, 10)
				town.Pass(t, time.Duration(random.IntN(400))*time.Millisecond)
				switch round % 3 {
				case 0:
					p.cut(t, p.Leader(t))
				case 1:
					p.cut(t, p.Nodes[random.IntN(len(p.Nodes))])
				case 2:
					p.cut(t, p.Nodes...)
				}
			}
			crew.Finish(t)
		})
	}
}

// TestBrokenSync is the fifth: a build that skips fsync loses its state when the power of all nodes is cut at once, and
// says so itself, or the history does.
func TestBrokenSync(t *testing.T) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	binary := town.Build(t,
		town.Edit{File: "keystore/kv/generation.go", Old: "WithSyncWrites(sync)", New: "WithSyncWrites(sync && false)"},
		town.Edit{File: filepath.Join(strings.TrimSpace(string(root)), "src", "os", "file_posix.go"), Old: "if e := f.pfd.Fsync(); e != nil {", New: "if e := error(nil); e != nil {"},
	)
	p := &powered{disks: map[*town.Node]*town.Disk{}}
	p.Town = town.New(t, town.Plan{Binary: binary, Prepare: p.prepare("ext4", 400)})
	crew := work.Start(t, p.Town)
	crew.Await(t, 100)
	for _, n := range p.Nodes {
		p.disks[n].Cut(t)
	}
	for _, n := range p.Nodes {
		n.Kill()
		p.disks[n].Unmount(t)
		p.disks[n].Mount(t)
		n.Launch(t)
	}
	town.Eventually(t, "a node names what it lost", time.Minute, func() error {
		for _, n := range p.Nodes {
			if said := n.Wrote(t); strings.Contains(said, "were lost") || strings.Contains(said, "damaged") {
				return nil
			}
		}
		return fmt.Errorf("all nodes go on as if nothing had happened")
	})
}
