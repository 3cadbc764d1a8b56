//go:build battery && root

package battery_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestDisk takes away what one node needs of its disk, callers at work. The node stops, or refuses, and says why; the
// others go on; it serves again when the disk is mended and it is started.
func TestDisk(t *testing.T) {
	p := newPowered(t, "ext4", 300)
	crew := work.Start(t, p.Town)
	for name, fault := range map[string]func(t *testing.T, d *town.Disk) (mend func()){
		"full": func(t *testing.T, d *town.Disk) func() { return d.Fill(t) },
		"read-only": func(t *testing.T, d *town.Disk) func() {
			// A file system with open files is not made read-only but by its own error handling: as the kernel does it.
			if out, err := exec.Command("mount", "-o", "remount,abort", d.Dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			victim := p.Leader(t)
			mend := fault(t, p.disks[victim])
			town.Eventually(t, "the node stops, or names its disk's fault", time.Minute, func() error {
				said, err := problem(t, p.Dial(t, victim))
				if victim.Ended() == nil && err == nil && said == "" {
					return errors.New("it says that all is well")
				}
				return nil
			})
			crew.Await(t, 20)
			said := victim.Wrote(t)
			if !strings.Contains(said, "space") && !strings.Contains(said, "read-only") && !strings.Contains(said, "input/output") {
				t.Errorf("the log does not say what is wrong with the disk:\n%s", victim.Log())
			}
			mend()
			victim.Kill()
			p.disks[victim].Unmount(t)
			p.disks[victim].Mount(t)
			victim.Start(t)
			p.Ready(t, victim)
		})
	}
	crew.Finish(t)
}

// TestDiskErrors has every fsync of a node fail, and then every one take long: a node whose fsync failed stops, because
// nobody knows what it has; one whose disk stalls lets another lead.
func TestDiskErrors(t *testing.T) {
	for name, inject := range map[string]string{
		"fsync fails":  "inject=fsync,fdatasync:error=EIO:when=200+",
		"fsync stalls": "inject=fsync,fdatasync:delay_enter=10000000:when=200",
	} {
		t.Run(name, func(t *testing.T) {
			at := town.New(t, town.Plan{})
			crew := work.Start(t, at)
			victim := at.Leader(t)
			victim.Stop()
			victim.Wrap = []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject}
			victim.Start(t)
			if name == "fsync fails" {
				town.Eventually(t, "the node stops", 2*time.Minute, func() error {
					if victim.Ended() == nil {
						return errors.New("it runs")
					}
					return nil
				})
				if !strings.Contains(victim.Wrote(t), "input/output error") {
					t.Errorf("it does not say why:\n%s", victim.Log())
				}
			}
			crew.Await(t, 40)
			town.Pass(t, 12*time.Second)
			victim.Kill()
			victim.Wrap = nil
			victim.Start(t)
			at.Ready(t, victim)
			crew.Finish(t)
		})
	}
}
