package kv_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"warder/keystore/kv"
)

const killEnv = "WARDER_KV_WRITER"

// TestKillWriter is the process that TestKill kills: it applies entries to the
// store that the environment names and says so after each. Otherwise it has
// nothing to do.
func TestKillWriter(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return
	}
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	must(t, err)
	for i := s.Applied() + 1; ; i++ {
		fill(t, s, i, i)
		_, hash := s.StateHash()
		fmt.Printf("applied %d %x\n", i, hash)
	}
}

// TestKill kills a writer again and again. The store always opens, at no less
// than what was acknowledged, in the state that it had then: every other time
// the next writer finds it as the kill left it.
func TestKill(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	hashes := map[uint64]string{}
	last := uint64(0)
	for round := range 12 {
		last = killWriter(t, dir, 1+round*7%23, last, hashes)
		if round%2 == 0 {
			continue
		}
		s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		index, hash := s.StateHash()
		if index < last || index == last && hashes[index] != fmt.Sprintf("%x", hash) {
			t.Fatalf("round %d: opened at %d, %d was acknowledged, or another state", round, index, last)
		}
		last = index
		must(t, s.Close())
	}
}

// killWriter lets a writer acknowledge n entries past the last acknowledged one
// and kills it. It returns the last index that was acknowledged.
func killWriter(t *testing.T, dir string, n int, last uint64, hashes map[uint64]string) uint64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillWriter$")
	cmd.Env = append(os.Environ(), killEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var index uint64
		var hash string
		if !strings.HasPrefix(lines.Text(), "applied ") {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "applied %d %s", &index, &hash); err != nil {
			t.Fatal(err)
		}
		if index <= last {
			t.Fatalf("the writer found the store at %d, %d was acknowledged", index-1, last)
		}
		last, hashes[index] = index, hash
		if n--; n == 0 {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // it was killed
	if n > 0 {
		t.Fatalf("the writer stopped by itself after %d", last)
	}
	return last
}
