package town

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk is a file system of its own in a file, mounted by a loop device, whose power can be cut.
type Disk struct {
	Dir     string // where it is mounted
	image   string
	trigger string // the file that makes reads fail; of a frail disk
}

// NewDisk makes a file system of that kind ("ext4" or "xfs") and size in MiB, and mounts it. It needs root.
func NewDisk(t testing.TB, kind string, size int64) *Disk {
	t.Helper()
	d := &Disk{Dir: t.TempDir(), image: filepath.Join(t.TempDir(), "image")}
	file, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(size << 20); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	command(t, nil, "mkfs."+kind, "-q", d.image)
	d.Mount(t)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", d.Dir).Run() }) // it may not be mounted
	return d
}

// Mount mounts it, after a cut with the replay of its journal.
func (d *Disk) Mount(t testing.TB) {
	t.Helper()
	command(t, nil, "mount", "-o", "loop", d.image, d.Dir)
}

// Unmount unmounts it. Nobody may use it any more.
func (d *Disk) Unmount(t testing.TB) {
	t.Helper()
	command(t, nil, "umount", d.Dir)
}

// shutDown and withoutJournal are EXT4_IOC_SHUTDOWN, which is XFS_IOC_GOINGDOWN, and their flag NOLOGFLUSH: what was not
// synced is gone, as it is when the power is.
const (
	shutDown       = 0x8004587d
	withoutJournal = 2
)

// Cut cuts the power: from now on every write fails, and what was not synced is lost.
func (d *Disk) Cut(t testing.TB) {
	t.Helper()
	dir, err := os.Open(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutDown, withoutJournal); err != nil {
		t.Fatalf("cut the power of %s: %v", d.Dir, err)
	}
}

// Fill leaves no room on the disk, and gives what empties it again.
func (d *Disk) Fill(t testing.TB) (empty func()) {
	t.Helper()
	ballast := filepath.Join(d.Dir, "ballast")
	// It ends with "no space left", which is what it is for.
	_ = exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=1M", "conv=fsync").Run()
	_ = exec.Command("dd", "if=/dev/zero", "of="+ballast+"2", "bs=512", "conv=fsync").Run()
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(ballast + "2"); err != nil {
			t.Fatal(err)
		}
	}
}

// ReadOnly makes it read-only, or writable again.
func (d *Disk) ReadOnly(t testing.TB, on bool) {
	t.Helper()
	option := "remount,rw"
	if on {
		option = "remount,ro"
	}
	command(t, nil, "mount", "-o", option, d.Dir)
}
