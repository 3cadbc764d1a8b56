package kv

import (
	"slices"
	"strings"
)

// ahead holds rows that were applied and that Badger does not have yet. The log has them, durably, and gives them again
// after a crash. A row keeps all that it was since, each with the number of the change that made it, so that a view goes
// on to show what it began with.
//
// The ahead that takes changes is guarded by Store.mu. One that is being written, or was, takes none any more.
type ahead struct {
	rows   map[string][]version
	count  int // rows that writing it may write, at most
	weight int // on that transaction, see Batch.weight
	size   int // bytes of all versions
}

// maxAhead bounds the bytes that wait to be written: memory, what one transaction writes below the disk's reserve, and far
// less than by what Badger maps its value log larger than it lets it grow. To map more moves the file under its readers.
const maxAhead = 16 << 20

// version is what a row was from one change on; nil for no row.
type version struct {
	change uint64
	row    row
}

func newAhead() *ahead { return &ahead{rows: map[string][]version{}} }

// takes reports whether one transaction of Badger can still hold all of it with c: twice what one batch may bring.
func (a *ahead) takes(c *change) bool {
	return a.count+c.rows <= 2*maxRows && a.weight+c.weight <= 2*maxRowWeight && a.size+c.size <= maxAhead
}

func (a *ahead) add(number uint64, c *change) {
	for key, now := range c.rowsChanged {
		a.rows[key] = append(a.rows[key], version{number, now})
	}
	a.count += c.rows
	a.weight += c.weight
	a.size += c.size
}

// at gives a row as the change with that number left it; false when it is not here.
func (a *ahead) at(key string, number uint64) (row, bool) {
	if a == nil {
		return nil, false
	}
	versions := a.rows[key]
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].change <= number {
			return versions[i].row, true
		}
	}
	return nil, false
}

// newest yields each row as it is now.
func (a *ahead) newest(yield func(key string, now row) bool) {
	for key, versions := range a.rows {
		if !yield(key, versions[len(versions)-1].row) {
			return
		}
	}
}

// keyed is a row, or the absence of one, and its key.
type keyed struct {
	key string
	row row
}

// span gives the rows of a view that Badger does not have, from start on and beneath prefix, in the order of their keys;
// a deleted one is there as nil.
func (v *view) span(prefix, start string) []keyed {
	v.store.mu.RLock()
	defer v.store.mu.RUnlock()
	var found []keyed
	for i, a := range v.ahead {
		if a == nil || i == 1 && v.whole {
			continue
		}
		for key := range a.rows {
			if key < start || !strings.HasPrefix(key, prefix) {
				continue
			}
			if r, ok := a.at(key, v.change); ok && !v.shown(key, i) {
				found = append(found, keyed{key, r})
			}
		}
	}
	slices.SortFunc(found, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
	return found
}

// shown reports whether a newer ahead than the i-th shows the row. It needs Store.mu.
func (v *view) shown(key string, i int) bool {
	for _, newer := range v.ahead[:i] {
		if _, ok := newer.at(key, v.change); ok {
			return true
		}
	}
	return false
}
