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
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

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
			kv.Batch{Append: []kv.Append{{Target: logOf("log"), Sealed: sealed(string([]byte{byte(i)}))}}},
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

// crashed is what is left of a store that was not closed: tables and a value log
// of an earlier life up to index 60, a mark at 70, and a log up to 80.
func crashed(t *testing.T) (files tree, hash [32]byte) {
	t.Helper()
	dir := t.TempDir()
	must(t, filled(t, dir).Close())
	s := openStore(t, dir)
	fill(t, s, 61, 70)
	must(t, s.Mark())
	fill(t, s, 71, 80)
	_, hash = s.StateHash()
	return readTree(t, dir), hash
}

// TestDamageAfterCrash damages the files of a store that was not closed. Losing
// what came after the mark is allowed, because the log replays it; the replay
// must then come to the same state.
func TestDamageAfterCrash(t *testing.T) {
	t.Parallel() // it waits for the disk
	files, want := crashed(t)
	refused := map[string]int{}
	for file := range files {
		for _, d := range damages(files.written(file)) {
			hurt := files.write(t)
			d.do(t, filepath.Join(hurt, file))
			s, err := kv.OpenStore(kv.StoreConfig{Dir: hurt})
			if err != nil {
				refused[filepath.Ext(file)]++
				if !errors.Is(err, kv.ErrDamaged) {
					t.Errorf("%s, %s: %v", file, d.name, err)
				}
				continue
			}
			if s.Applied() < 70 {
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
	for _, ext := range []string{".sst", ".vlog", ".mem", ""} {
		if refused[ext] == 0 {
			t.Errorf("no damage of a *%s file was found", ext)
		}
	}
}

// TestTamperedRows changes rows behind the store's back, with every checksum of
// Badger's right.
func TestTamperedRows(t *testing.T) {
	t.Parallel() // it waits for the disk
	files, _ := crashed(t)
	key := append([]byte("r"), record("ns", "record 39").Path...)
	state := []byte("s")
	value := func(txn *badger.Txn, key []byte) []byte {
		item, err := txn.Get(key)
		must(t, err)
		v, err := item.ValueCopy(nil)
		must(t, err)
		return v
	}
	for name, tamper := range map[string]func(*badger.Txn) error{
		"a value": func(txn *badger.Txn) error { return txn.Set(key, append(value(txn, key), 'x')) },
		"a revision": func(txn *badger.Txn) error {
			v := value(txn, key)
			v[7]--
			return txn.Set(key, v)
		},
		"a row gone":     func(txn *badger.Txn) error { return txn.Delete(key) },
		"a row more":     func(txn *badger.Txn) error { return txn.Set(append(key, key[1:17]...), value(txn, key)) },
		"a strange row":  func(txn *badger.Txn) error { return txn.Set([]byte("strange"), value(txn, key)) },
		"the state gone": func(txn *badger.Txn) error { return txn.Delete(state) },
		"the state": func(txn *badger.Txn) error {
			v := value(txn, state)
			v[8] ^= 1
			return txn.Set(state, v)
		},
	} {
		dir := files.write(t)
		opt := badger.DefaultOptions(filepath.Join(dir, "gen-000001")).WithLogger(nil).WithCompression(options.None).WithBlockCacheSize(0)
		db, err := badger.Open(opt)
		must(t, err)
		must(t, errors.Join(db.Update(tamper), db.Close()))
		if s, err := kv.OpenStore(kv.StoreConfig{Dir: dir}); err == nil {
			t.Errorf("%s: not found", name)
			must(t, s.Close())
		} else if !errors.Is(err, kv.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAReadingOfWhatIsGoneStopsTheStore takes the tables away from under a store that runs: to look at the mapped files is a fault
// that would end the process without a word. Every kind of reading names it, and the store stops.
func TestAReadingOfWhatIsGoneStopsTheStore(t *testing.T) {
	for name, read := range map[string]func(*kv.Tx) error{
		"get": func(tx *kv.Tx) error { _, _, err := tx.Get(kv.K("ns", "n")); return err },
		"scan": func(tx *kv.Tx) error {
			_, err := scan(tx, kv.K("ns"))
			return err
		},
	} {
		dir, held := t.TempDir(), newKeys(t)
		s := openStore(t, dir)
		update(t, kv.New(s, &localLog{store: s}, held), func(tx *kv.Tx) { tx.Put(kv.K("ns", "n"), []byte("v")) })
		must(t, s.Close())
		s = openStore(t, dir)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(t.Context()) }()
		tables, err := filepath.Glob(filepath.Join(dir, "gen-*", "*.sst"))
		if err != nil || len(tables) == 0 {
			t.Fatalf("tables %v, %v", tables, err)
		}
		for _, table := range tables {
			must(t, os.Truncate(table, 0))
		}
		err = kv.New(s, &localLog{store: s}, held).View(t.Context(), read)
		if !errors.Is(err, kv.ErrStopped) || !errors.Is(err, kv.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, kv.ErrDamaged) {
				t.Errorf("%s: the store ends with %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: the store runs on", name)
		}
	}
}
