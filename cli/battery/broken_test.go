//go:build battery

package battery_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// broken is a build with one fault in it, the schedule that must find it, and words of what it finds.
type broken struct {
	name     string
	edits    []town.Edit
	schedule func(t *testing.T, at *town.Town, crew *work.Crew)
	says     string
}

func calm(t *testing.T, _ *town.Town, crew *work.Crew) {
	t.Helper()
	crew.Await(t, 150)
}

func brokenBuilds() []broken {
	return []broken{
		{
			"half of a batch is applied: values are put, and counters of the same batch are not",
			[]town.Edit{{File: "keystore/kv/change.go", Old: "v, err := c.add(a)", New: "v, err := a.Delta, error(nil)\n\t\tif len(b.Put) == 0 {\n\t\t\tv, err = c.add(a)\n\t\t}"}},
			calm, "the use of token",
		},
		{
			"a revocation is ignored",
			[]town.Edit{{File: "daemon/token/revoke.go", Old: "if len(v.revoked) == 0 {", New: "if len(v.revoked) >= 0 {"}},
			calm, "revoke",
		},
		{
			"a leader that was suspended answers without asking the others",
			[]town.Edit{{File: "cluster/barrier.go", Old: "at, err := n.reads.join(ctx)", New: "at, err := place{}, error(nil)"}},
			func(t *testing.T, at *town.Town, crew *work.Crew) {
				for turn := range 4 {
					victim := at.Leader(t)
					suspend(t, at, crew, victim, 2*turn)
					at.Ready(t, victim)
				}
			}, "linearizable",
		},
		{
			"an audit record is dropped now and then",
			[]town.Edit{{File: "daemon/rpc/record.go", Old: "_, err = s.Audit.Append(context.WithoutCancel(ctx), entry)", New: "if call.ID[0] != 'A' {\n\t\t\t_, err = s.Audit.Append(context.WithoutCancel(ctx), entry)\n\t\t}"}},
			calm, "has 0 records",
		},
	}
}

// TestBroken holds the battery itself to its purpose: each deliberately broken build is caught, by its own fault. The sound
// build passes the same schedules in TestCalm and TestPause. The short form builds them only, so that an edit which the code
// has left behind is noticed with the change that did it.
func TestBroken(t *testing.T) {
	for _, one := range brokenBuilds() {
		t.Run(one.name, func(t *testing.T) {
			binary := town.Build(t, one.edits...)
			if testing.Short() {
				return
			}
			at := town.New(t, town.Plan{Binary: binary})
			crew := work.Start(t, at)
			one.schedule(t, at, crew)
			findings := errors.Join(crew.Findings(t)...)
			if findings == nil || !strings.Contains(findings.Error(), one.says) {
				t.Errorf("the battery did not catch it: %v", findings)
			}
		})
	}
}

// TestBrokenSync is the fifth: a build that skips fsync loses its state when the power of all nodes is cut at once, and
// says so itself, or the history does.
func TestBrokenSync(t *testing.T) {
	needsRoot(t)
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
