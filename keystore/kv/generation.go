package kv

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/dgraph-io/badger/v4"
)

// generation is one Badger database: a store's rows from one restored snapshot
// to the next. It is closed when its last user lets go of it.
type generation struct {
	number  uint64
	dir     string
	db      *badger.DB
	log     *badgerLog
	refs    atomic.Int64 // users, one of them the store itself while it is current
	dropped atomic.Bool  // remove the directory once closed
	closed  chan error   // gets what closing gave, once
}

func generationDir(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("gen-%06d", number))
}

// openGeneration opens a generation, or makes an empty one. Without sync Badger
// may keep what it is given in memory until it is closed.
func openGeneration(dir string, number uint64, log *slog.Logger, sync bool) (*generation, error) {
	g := &generation{number: number, dir: generationDir(dir, number), log: &badgerLog{log: log}, closed: make(chan error, 1)}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return nil, err
	}
	if err := syncPath(dir); err != nil {
		return nil, err
	}
	db, err := openBadger(badgerOptions(g.dir, g.log).WithSyncWrites(sync), g.log)
	if err != nil {
		return nil, err
	}
	g.db = db
	g.refs.Store(1)
	return g, nil
}

// roomToClose is what Badger may write when it is closed: what is in memory, and in its log already. It writes into mapped
// files, and there a disk without room is not an error but a fault that ends the process.
const roomToClose = 2 * memTableSize

func (g *generation) release() {
	if g.refs.Add(-1) != 0 {
		return
	}
	if free, err := freeBytes(g.dir); err == nil && free < roomToClose {
		g.closed <- fmt.Errorf("%w: %d MiB free where %s is: it was left as it is, and is read whole at the next start", syscall.ENOSPC, free>>20, g.dir)
		return
	}
	err := g.db.Close()
	if g.dropped.Load() {
		err = errors.Join(err, os.RemoveAll(g.dir))
	}
	g.closed <- err
}

// scan reads every row, and returns the state if rows and state agree.
func (g *generation) scan() (st state, err error) {
	var found state
	err = guarded(func() error {
		txn := g.db.NewTransaction(false)
		defer txn.Discard()
		if st, err = readState(txn); err != nil {
			return err
		}
		return eachRow(txn, nil, nil, func(key []byte, r row) error {
			t, err := parseRowKey(key)
			if err != nil {
				return fmt.Errorf("%w: row with key %x", ErrDamaged, key)
			}
			found.count++
			found.sum.add(rowDigest(key, r))
			return r.check(t, st.seq)
		})
	})
	switch {
	case err != nil && !errors.Is(err, ErrDamaged) && !environmental(err):
		return st, fmt.Errorf("%w: %s: %w", ErrDamaged, g.dir, err)
	case err != nil:
		return st, fmt.Errorf("%s: %w", g.dir, err)
	case found.count != st.count:
		return st, fmt.Errorf("%w: %s holds %d rows, its state says %d", ErrDamaged, g.dir, found.count, st.count)
	case found.sum != st.sum:
		return st, fmt.Errorf("%w: the rows in %s do not give the hash in its state", ErrDamaged, g.dir)
	}
	return st, nil
}

// agree holds what a scan found to what the mark promises.
func (g *generation) agree(marked, found state) error {
	switch {
	case found.behind(marked):
		return fmt.Errorf("%w: %s stands at index %d, the mark at %d: changes were lost",
			ErrDamaged, g.dir, found.applied(), marked.applied())
	case !marked.behind(found) && found != marked,
		marked.seq != 0 && marked.lineage != found.lineage:
		return fmt.Errorf("%w: the state in %s and the mark differ at index %d", ErrDamaged, g.dir, marked.applied())
	}
	return nil
}

func readState(txn *badger.Txn) (state, error) {
	b, err := getRow(txn, []byte{byte(spaceState)})
	if err != nil || b == nil {
		return state{}, err
	}
	return parseStateRow(b)
}

// getRow returns a copy of a row, nil when there is none.
func getRow(txn *badger.Txn, key []byte) (row, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: row %x: %w", ErrDamaged, key, err)
	}
	b, err := item.ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("%w: row %x: %w", ErrDamaged, key, err)
	}
	return b, nil
}

// eachRow calls fn for every row whose key begins with prefix, from the key
// start on, but for the state. Key and row are valid until fn
// returns. Values are not prefetched: Badger does that on goroutines that
// nothing guards. They are copied: Badger holds a lock on the file of a value
// that is looked at in place, which a writer that has filled that file waits
// for, and behind the writer every other reader, fn among them.
func eachRow(txn *badger.Txn, prefix, start []byte, fn func(key []byte, r row) error) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	var key, value []byte
	read := func(move func()) (more bool, err error) {
		err = guarded(func() (err error) {
			move()
			if more = it.Valid(); !more {
				return nil
			}
			key = it.Item().Key()
			if value, err = it.Item().ValueCopy(value); err != nil {
				return fmt.Errorf("%w: row %x: %w", ErrDamaged, key, err)
			}
			return nil
		})
		return more && err == nil, err
	}
	more, err := read(func() { it.Seek(start) })
	for ; more; more, err = read(it.Next) {
		if len(key) == 1 && key[0] == byte(spaceState) {
			continue
		}
		if err := fn(key, row(value)); err != nil {
			return err
		}
	}
	return err
}
