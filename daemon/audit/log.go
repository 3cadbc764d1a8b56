package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"warder/api/verify"
)

// Log is an open audit log. Its methods are safe for concurrent use.
type Log struct {
	cfg    Config
	origin verify.Origin
	keys   []string // verifier keys, the present one first
	hashes hashFile

	mu      sync.Mutex // guards the next five
	next    uint64     // index of the next record
	open    *group     // records that wait for the disk
	fault   error      // latched: why nothing can be appended any more
	closed  bool
	changed chan struct{} // closed when the log has grown or ended; nil while nobody waits for that

	files    sync.Mutex // guards the next two
	segments []*segment
	active   *os.File // the last segment, nil before the first record

	writing   sync.Mutex // one group is written at a time; guards the next four after Open
	tree      verify.Tree
	ahead     int64 // the active segment's bytes that exist on disk: zeros behind its length
	nodes     []verify.Hash
	spare     group // what a group that was written leaves to the next: its room
	committed atomic.Pointer[position]
	busySince atomic.Int64 // Unix nanoseconds at which the writer began its disk work, 0 when idle

	marking sync.Mutex // guards mark after Open
	mark    *mark

	signing sync.Mutex // one checkpoint is made at a time
	signed  atomic.Pointer[verify.Checkpoint]

	work    chan struct{} // capacity 1: there is something to write
	behind  chan struct{} // capacity 1: the mark is behind
	quit    chan struct{} // closed by Close
	running sync.WaitGroup
	buffers sync.Pool // *[]byte for encoding
}

// Open opens a log, or creates it in an absent or empty directory, and checks it: the newest segments entry by entry
// against the acknowledged size and root and against the latest checkpoint, older ones in the background. It fails
// with [ErrDamaged] (a [*Damage]) or [ErrLocked]. Close must be called.
func Open(cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	public, ok := cfg.Key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("audit log: the signing key is not an Ed25519 key")
	}
	key, err := verify.VerifierKey(cfg.Node, public)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l := &Log{cfg: cfg, keys: append([]string{key}, cfg.FormerKeys...),
		work: make(chan struct{}, 1), behind: make(chan struct{}, 1), quit: make(chan struct{})}
	l.buffers.New = func() any { b := make([]byte, 0, 1024); return &b }
	unread, err := l.recover()
	if err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	l.running.Go(l.write)
	l.running.Go(l.keepMarked)
	l.running.Go(l.keepSigned)
	if len(unread) > 0 {
		l.running.Go(func() { l.scrub(unread) })
	}
	return l, nil
}

// Append adds a record and returns its index once it is durable. Node and a zero Time are filled in, and the remote
// address loses its zone and its mapping into IPv6. Errors:
// [verify.ErrBadRecord] (the log is fine, the record is not), [ErrUnavailable], [ErrClosed], or the context's, in
// which case the record may still become durable. On any error the caller must not answer.
func (l *Log) Append(ctx context.Context, r Record) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("audit append: %w", err)
	}
	if err := l.stamp(&r); err != nil {
		return 0, err
	}
	buffer := l.buffers.Get().(*[]byte)
	defer l.buffers.Put(buffer)
	prefixed, err := r.AppendBinary(append((*buffer)[:0], 0)) // 0x00: the leaf prefix of RFC 6962 2.1
	if err != nil {
		return 0, err
	}
	*buffer = prefixed
	leaf := prefixed[1:]
	g, index, err := l.enqueue(ctx, leaf, sha256.Sum256(prefixed), crc32.Checksum(leaf, castagnoli))
	if err != nil {
		return 0, err
	}
	if l.cfg.Mode == Durable && ctx.Done() == nil {
		l.lead()
	} else {
		l.wake()
	}
	if l.cfg.Mode == Relaxed {
		return index, nil
	}
	select {
	case <-g.done:
		return index, g.err
	case <-ctx.Done():
		return index, fmt.Errorf("audit append: record %d is not known to be durable: %w", index, ctx.Err())
	}
}

func (l *Log) stamp(r *Record) error {
	if r.Node == "" {
		r.Node = l.cfg.Node
	}
	if r.Node != l.cfg.Node {
		return fmt.Errorf("%w: node: the record names another node", verify.ErrBadRecord)
	}
	if r.Time.IsZero() {
		r.Time = l.cfg.Clock()
	}
	if a := r.Remote.Addr(); a.Zone() != "" || a.Is4In6() {
		r.Remote = netip.AddrPortFrom(a.Unmap().WithZone(""), r.Remote.Port())
	}
	return l.cfg.checkInputs(r.Inputs)
}

// enqueue gives the record its index and a place in the open group, waiting while that is full.
func (l *Log) enqueue(ctx context.Context, leaf []byte, hash verify.Hash, sum uint32) (*group, uint64, error) {
	for {
		l.mu.Lock()
		if err := l.refusal(); err != nil {
			l.mu.Unlock()
			return nil, 0, err
		}
		g := l.open
		if len(g.frames) < groupBytes {
			index := l.next
			l.next++
			g.add(index, leaf, hash, sum)
			l.mu.Unlock()
			return g, index, nil
		}
		taken := g.whenTaken()
		l.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("audit append: the disk does not keep up: %w", ctx.Err())
		}
	}
}

// refusal says why nothing can be appended; mu is held.
func (l *Log) refusal() error {
	if l.fault != nil {
		return l.fault
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

func (l *Log) wake() {
	select {
	case l.work <- struct{}{}:
	default:
	}
}

// Healthy says whether records can be made durable: nil, or an error that wraps [ErrUnavailable], [ErrDamaged] or
// [ErrClosed].
func (l *Log) Healthy() error {
	l.mu.Lock()
	err := l.refusal()
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if since := l.busySince.Load(); since != 0 {
		if waiting := l.cfg.Clock().Sub(time.Unix(0, since)); waiting > l.cfg.Stall {
			return fmt.Errorf("%w: the disk under %s has not answered for %v", ErrUnavailable, l.cfg.Dir, waiting.Round(time.Millisecond))
		}
	}
	return nil
}

// latch makes the log refuse everything from now on. The first cause stays.
func (l *Log) latch(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		l.fault = fmt.Errorf("%w: %w; free or repair %s, then restart the node", ErrUnavailable, cause, l.cfg.Dir)
		l.cfg.Logger.Error("audit log failed: no request will be answered", "dir", l.cfg.Dir, "error", cause)
		l.announce()
	}
	return l.fault
}

// announce wakes those who wait for a change; mu is held.
func (l *Log) announce() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Mode says what Append waits for.
func (l *Log) Mode() Mode { return l.cfg.Mode }

// Origin names this log; it is the first line of its checkpoints.
func (l *Log) Origin() verify.Origin { return l.origin }

// VerifierKey is the text form of the public key that signs the checkpoints.
func (l *Log) VerifierKey() string { return l.keys[0] }

// Size is the number of durable records.
func (l *Log) Size() uint64 { return l.committed.Load().size }

// Close writes what waits, signs a last checkpoint and gives the directory free. It returns the latched failure if
// there is one.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	close(l.quit)
	l.announce()
	l.mu.Unlock()
	l.running.Wait()
	err := l.failed()
	if err == nil {
		err = l.finish()
	}
	return errors.Join(err, l.closeFiles())
}

// finish leaves the files of a log that nobody writes to any more without zeros, marked and signed.
func (l *Log) finish() error {
	if err := l.trim(); err != nil {
		return l.latch(err)
	}
	if err := l.markNow(); err != nil {
		return l.latch(err)
	}
	_, err := l.SignNow()
	return err
}

func (l *Log) closeFiles() error {
	l.files.Lock()
	defer l.files.Unlock()
	var err error
	if l.active != nil {
		err = errors.Join(err, l.active.Close())
	}
	if l.hashes.file != nil {
		err = errors.Join(err, l.hashes.file.Close())
	}
	if l.mark != nil {
		err = errors.Join(err, l.mark.file.Close())
	}
	return err
}
