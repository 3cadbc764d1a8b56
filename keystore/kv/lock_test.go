package kv_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"warder/keystore/kv"
)

// TestCloseUnlocksInForksToo opens a store again while a copy of its lock's file
// descriptor is still about, as one is in a child between fork and exec.
func TestCloseUnlocksInForksToo(t *testing.T) {
	dir := t.TempDir()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	must(t, err)
	copied := -1
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range fds {
		if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); name == filepath.Join(dir, "lock") {
			var n int
			_, err := fmt.Sscan(fd.Name(), &n)
			must(t, err)
			copied, err = syscall.Dup(n)
			must(t, err)
		}
	}
	if copied < 0 {
		t.Fatal("the store has no lock open")
	}
	defer syscall.Close(copied)
	must(t, s.Close())
	must(t, openStore(t, dir).Mark())
}
