package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"warder/keystore/kv"
)

// filled makes a store with tables, value logs and everything else that a
// battery of damage should meet, and returns it still open.
func filled(t *testing.T, dir string) *kv.Store {
	t.Helper()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, 1, 60)
	return s
}

func fill(t *testing.T, s *kv.Store, first, last uint64) {
	t.Helper()
	for i := first; i <= last; i++ {
		name := fmt.Sprint("record ", i%40)
		apply(t, s, i,
			put(record("ns", name), strings.Repeat(name, int(i%9)*7)),
			kv.Batch{Delete: []kv.Target{record("ns", fmt.Sprint("record ", (i+3)%40))}},
			kv.Batch{Append: []kv.Append{{Target: logOf("log"), Sealed: bytes.Repeat([]byte{byte(i)}, 20)}}},
			kv.Batch{Add: []kv.Add{{Target: counter("c"), Delta: 1, Limit: 1000}}},
		)
	}
}

// tree is the files of a directory, without the zeros that Badger's
// preallocated files end in.
type tree map[string]struct {
	data []byte
	size int64
}

func readTree(t *testing.T, dir string) tree {
	t.Helper()
	files := tree{}
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		f := files[rel]
		f.size = int64(len(b))
		f.data = bytes.Clone(bytes.TrimRight(b, "\x00"))
		files[rel] = f
		return err
	}))
	return files
}

// write makes a directory of the tree, as a crash leaves it.
func (files tree) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, f := range files {
		name = filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o700))
		must(t, os.WriteFile(name, f.data, 0o600))
		must(t, os.Truncate(name, f.size))
	}
	return dir
}

// written is how many bytes of a file are worth damaging.
func (files tree) written(name string) int64 {
	return min(files[name].size, int64(len(files[name].data))+16)
}

type damage struct {
	name string
	do   func(t *testing.T, file string)
}

func damages(size int64) []damage {
	all := []damage{{"delete", func(t *testing.T, file string) { must(t, os.Remove(file)) }}}
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	offsets := []int64{0, 7, size / 2, size - 5, size - 1}
	for range 2 {
		offsets = append(offsets, rng.Int64N(size))
	}
	for _, off := range offsets {
		if off < 0 || off >= size {
			continue
		}
		all = append(all, damage{fmt.Sprint("flip a bit at ", off), func(t *testing.T, file string) { flip(t, file, off) }},
			damage{fmt.Sprint("cut at ", off), func(t *testing.T, file string) { must(t, os.Truncate(file, off)) }})
	}
	return all
}

func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	must(t, err)
	b[0] ^= 1 << (off % 8)
	_, err = f.WriteAt(b[:], off)
	must(t, errors.Join(err, f.Close()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamageOfClosedStore damages each file of a closed store in every way, and
// wants the same state or an error that names what is wrong.
func TestDamageOfClosedStore(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	s := filled(t, dir)
	must(t, s.Close())
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir}) // a second life: tables and a new log
	must(t, err)
	fill(t, s, 61, 80)
	_, want := s.StateHash()
	must(t, s.Close())
	refused := 0
	files := readTree(t, dir)
	for file := range files {
		for _, d := range damages(files.written(file)) {
			hurt := files.write(t)
			d.do(t, filepath.Join(hurt, file))
			s, err := kv.OpenStore(kv.StoreConfig{Dir: hurt})
			if err != nil {
				refused++
				if !errors.Is(err, kv.ErrDamaged) || !strings.Contains(err.Error(), filepath.Base(file)) {
					t.Errorf("%s, %s: the error does not name it: %v", file, d.name, err)
				}
				continue
			}
			if index, hash := s.StateHash(); index != 80 || hash != want {
				t.Errorf("%s, %s: opened at %d with another state", file, d.name, index)
			}
			must(t, s.Close())
		}
	}
	if refused == 0 {
		t.Error("no damage was found at all")
	}
}

// TestDamageAfterCrash damages the files of a store that was not closed. Losing
// what came after the mark is allowed, because the log replays it; the replay
// must then come to the same state.
func TestDamageAfterCrash(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	s := filled(t, dir)
	must(t, s.Mark())
	fill(t, s, 61, 80)
	_, want := s.StateHash()
	files := readTree(t, dir)
	must(t, s.Close())
	for file := range files {
		for _, d := range damages(files.written(file)) {
			hurt := files.write(t)
			d.do(t, filepath.Join(hurt, file))
			s, err := kv.OpenStore(kv.StoreConfig{Dir: hurt})
			if err != nil {
				if !errors.Is(err, kv.ErrDamaged) {
					t.Errorf("%s, %s: %v", file, d.name, err)
				}
				continue
			}
			if s.Applied() < 60 {
				t.Errorf("%s, %s: opened at %d, below its mark", file, d.name, s.Applied())
			}
			if s.Applied() < 80 {
				fill(t, s, s.Applied()+1, 80)
			}
			if _, hash := s.StateHash(); hash != want {
				t.Errorf("%s, %s: replay comes to another state", file, d.name)
			}
			must(t, s.Close())
		}
	}
}
