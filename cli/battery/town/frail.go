package town

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewFrailDisk makes a disk like NewDisk's whose reads fail when they are told to (FailReads): below its loop device lies a
// file that nbdkit serves through its error filter, by nbdfuse.
func NewFrailDisk(t testing.TB, kind string, size int64) *Disk {
	t.Helper()
	below := t.TempDir()
	d := &Disk{Dir: t.TempDir(), image: filepath.Join(below, "served"), trigger: filepath.Join(below, "fail")}
	plain := filepath.Join(below, "image")
	for path, length := range map[string]int64{plain: size << 20, d.image: 0} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, length)); err != nil {
			t.Fatal(err)
		}
	}
	command(t, nil, "mkfs."+kind, "-q", plain)
	serving := exec.Command("nbdfuse", d.image, "--socket-activation", "nbdkit", "--filter=error", "file", plain,
		"error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+d.trigger)
	if err := serving.Start(); err != nil {
		t.Fatalf("%v: make deps-faults", err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = serving.Wait() }() // it is told to end by having its mount taken away
	t.Cleanup(func() {
		_ = exec.Command("fusermount3", "-u", "-z", d.image).Run() // it may have ended by itself
		<-ended
	})
	Eventually(t, "the disk is served", 10*time.Second, func() error {
		info, err := os.Stat(d.image)
		if err == nil && info.Size() == 0 {
			err = errors.New("it is empty yet")
		}
		return err
	})
	d.Mount(t)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", d.Dir).Run() }) // it may not be mounted
	return d
}

// FailReads makes every read of the disk fail with EIO, or succeed again. What lies in the system's memory is not read from
// the disk: see Forget.
func (d *Disk) FailReads(t testing.TB, on bool) {
	t.Helper()
	var err error
	if on {
		err = os.WriteFile(d.trigger, nil, 0o600)
	} else if err = os.Remove(d.trigger); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Forget has the system drop what it holds in memory of the files below a folder of the disk, also of those that a running
// node has mapped, so that they are read anew.
func (d *Disk) Forget(t testing.TB, n *Node, folder string) {
	t.Helper()
	unix.Sync()
	if n.Ended() == nil {
		d.pageOut(t, n.PID(), folder)
	}
	for _, path := range d.files(t, folder) {
		file, err := os.Open(path)
		if err != nil {
			continue // it has gone meanwhile, or lies where nothing can be read any more
		}
		err = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Recall reads everything below a folder of the disk, so that the system holds it in memory.
func (d *Disk) Recall(t testing.TB, folder string) {
	t.Helper()
	for _, path := range d.files(t, folder) {
		if _, err := os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
}

// files lists what lies below a folder, as far as it can be read.
func (d *Disk) files(t testing.TB, folder string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// pageOut drops the pages of a folder's files that a process has mapped (process_madvise(2), MADV_PAGEOUT).
func (d *Disk) pageOut(t testing.TB, pid int, folder string) {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(process) }() // it was only asked
	maps, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "maps"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, " "+folder+"/") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			t.Fatal(err)
		}
		part := struct{ base, length uintptr }{from, to - from} // struct iovec, of the other process's memory
		if _, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(process), uintptr(unsafe.Pointer(&part)), 1, unix.MADV_PAGEOUT, 0, 0); errno != 0 {
			t.Fatalf("process_madvise: %v: %s", errno, line)
		}
	}
}
