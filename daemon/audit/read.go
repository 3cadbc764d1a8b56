package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"warder/api/verify"
)

// MaxEntries bounds what Entries gives at once.
const MaxEntries = 4096

var errStop = errors.New("stop")

// Entries gives up to n (at most [MaxEntries]) durable entries from index from on; none at the end of the log,
// [ErrRange] beyond it.
func (l *Log) Entries(from uint64, n int) ([]verify.Entry, error) {
	size := l.Size()
	if from > size {
		return nil, fmt.Errorf("%w: %d of %d", ErrRange, from, size)
	}
	to := min(size, from+uint64(max(0, min(n, MaxEntries))))
	entries := make([]verify.Entry, 0, to-from)
	for entry, err := range l.Range(from, to) {
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// Range gives the entries from (inclusive) to (exclusive, at most the size at the call). A frame that no longer
// reads back is a [*Damage], and latched.
func (l *Log) Range(from, to uint64) iter.Seq2[verify.Entry, error] {
	to = min(to, l.Size())
	return func(yield func(verify.Entry, error) bool) {
		for from < to {
			s := l.segmentOf(from)
			err := l.readSegment(s, from, to, func(e verify.Entry) bool {
				from = e.Index + 1
				return yield(e, nil)
			})
			if errors.Is(err, errStop) {
				return
			}
			if err != nil {
				yield(verify.Entry{}, err)
				return
			}
		}
	}
}

func (l *Log) segmentOf(index uint64) *segment {
	l.files.Lock()
	defer l.files.Unlock()
	for _, s := range slices.Backward(l.segments) {
		if s.first <= index {
			return s
		}
	}
	return l.segments[0]
}

// readSegment gives the entries of one segment in [from, to); errStop when yield wants no more.
func (l *Log) readSegment(s *segment, from, to uint64, yield func(verify.Entry) bool) error {
	at, err := s.find(from)
	got := false
	if err == nil {
		err = s.scan(at, s.length.Load(), func(f frame) error {
			if f.index < from {
				return nil
			}
			if f.index >= to {
				return nil
			}
			var stored [1]verify.Hash
			if err := l.hashes.read(tlog.StoredHashIndex(0, int64(f.index)), stored[:]); err != nil {
				return err
			}
			got = true
			if !yield(verify.Entry{Index: f.index, Leaf: slices.Clone(f.leaf), Stored: stored[0]}) || f.index+1 == to {
				return errStop
			}
			return nil
		})
	}
	var end *torn
	switch {
	case errors.As(err, &end):
		return l.latch(end.damage(s))
	case err == nil && !got:
		return l.latch(&Damage{s.name(), s.length.Load(), from, "the entry is missing"})
	}
	return err
}

// Tail gives the entries from an index on, and waits for more, until the context ends (its error is the last
// thing that it gives) or the log fails or is closed.
func (l *Log) Tail(ctx context.Context, from uint64) iter.Seq2[verify.Entry, error] {
	return func(yield func(verify.Entry, error) bool) {
		for {
			l.mu.Lock()
			if l.changed == nil {
				l.changed = make(chan struct{})
			}
			changed, refused := l.changed, l.refusal()
			l.mu.Unlock()
			for entry, err := range l.Range(from, l.Size()) {
				if !yield(entry, err) || err != nil {
					return
				}
				from = entry.Index + 1
			}
			if refused != nil {
				yield(verify.Entry{}, refused)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(verify.Entry{}, ctx.Err())
				return
			}
		}
	}
}

// Inclusion proves that entry index is in the log of the first size entries (RFC 6962 2.1.1).
func (l *Log) Inclusion(index, size uint64) ([]verify.Hash, error) {
	if size > l.Size() || index >= size {
		return nil, fmt.Errorf("%w: entry %d of %d", ErrRange, index, size)
	}
	proof, err := tlog.ProveRecord(int64(size), int64(index), l.hashes)
	if err != nil {
		return nil, fmt.Errorf("audit inclusion proof: %w", err)
	}
	return proof, nil
}

// Consistency proves that the log of size entries begins with the log of the first older entries (RFC 6962 2.1.2).
func (l *Log) Consistency(older, size uint64) ([]verify.Hash, error) {
	if size > l.Size() || older > size {
		return nil, fmt.Errorf("%w: size %d of %d", ErrRange, older, size)
	}
	if older == 0 {
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(size), int64(older), l.hashes)
	if err != nil {
		return nil, fmt.Errorf("audit consistency proof: %w", err)
	}
	return proof, nil
}

// scrub reads the older segments through in the background and latches damage.
func (l *Log) scrub(older []*segment) {
	if err := l.scrubAll(older); err != nil && !errors.Is(err, errStop) {
		_ = l.latch(err) // nobody waits here: callers and Healthy see it
	}
}

func (l *Log) scrubAll(older []*segment) error {
	var tree verify.Tree
	for i, s := range older {
		err := s.scan(place{tree.Size(), segmentHeader}, s.length.Load(), func(f frame) error {
			select {
			case <-l.quit:
				return errStop
			default:
			}
			tree.Append(verify.LeafHash(f.leaf), nil)
			return nil
		})
		if end := new(torn); errors.As(err, &end) {
			return end.damage(s)
		}
		if err != nil {
			return err
		}
		if next := l.firstAfter(i); tree.Size() != next {
			return &Damage{s.name(), s.length.Load(), tree.Size(), "the next segment does not begin where this one ends"}
		}
	}
	resumed, err := l.resume(tree.Size())
	if err != nil {
		return err
	}
	if resumed.Root() != tree.Root() {
		return &Damage{older[0].name(), 0, 0, fmt.Sprintf("the first %d entries are others than those that were acknowledged", tree.Size())}
	}
	return nil
}

func (l *Log) firstAfter(i int) uint64 {
	l.files.Lock()
	defer l.files.Unlock()
	return l.segments[i+1].first
}
