package kv

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	memTableSize = 16 << 20 // a transaction takes 15% of it: twice maxRowWeight and some
	valueLogSize = 64 << 20
)

// badgerOptions are measured choices; DESIGN.md gives the reasons.
func badgerOptions(dir string, l *badgerLog) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(l).
		WithSyncWrites(true).
		WithBypassLockGuard(true).  // Store has a lock of its own, which a child between fork and exec does not keep
		WithDetectConflicts(false). // Apply is the only writer
		WithMemTableSize(memTableSize).
		WithValueThreshold(inlineValue).
		WithValueLogFileSize(valueLogSize).
		WithCompression(options.None). // what is sealed does not shrink
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithNumCompactors(2).
		WithNumLevelZeroTables(4). // with more Badger first merges four into one, for which it takes 256 MiB
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithMetricsEnabled(false)
}

// badgerLog hands Badger's messages to slog and remembers the first error.
// Badger only logs a failed fsync of its value log and a failed flush of a
// table: to the caller the write has succeeded. After either, nothing more may
// be acknowledged.
type badgerLog struct {
	log    *slog.Logger
	failed atomic.Pointer[string]
}

func (l *badgerLog) Errorf(format string, args ...any) {
	msg := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.failed.CompareAndSwap(nil, &msg)
	l.log.Error("badger reports an error", "message", msg)
}

func (l *badgerLog) Warningf(format string, args ...any) {
	l.log.Warn("badger warns", "message", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l *badgerLog) Infof(string, ...any)  {}
func (l *badgerLog) Debugf(string, ...any) {}

// err returns the first error that Badger reported since it was opened.
func (l *badgerLog) err() error {
	if msg := l.failed.Load(); msg != nil {
		return errors.New(*msg)
	}
	return nil
}

// panicked is a panic, or a fault of the memory that files are mapped to, as an
// error.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic of type %T: %.300v", p.value, p.value) }

// contained runs fn and turns its panic into a [panicked] error.
func contained(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{value: p, stack: debug.Stack()}
		}
	}()
	return fn()
}

// guarded runs fn, which does nothing but read what is stored, and takes its
// panic for damage: Badger trusts the bytes it reads.
func guarded(fn func() error) error {
	err := contained(fn)
	if err == nil {
		return nil
	}
	if p := (*panicked)(nil); errors.As(err, &p) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// openBadger opens a database after a check of what Badger would exit the
// process for.
func openBadger(opt badger.Options, l *badgerLog) (db *badger.DB, err error) {
	err = guarded(func() error {
		if err := preflight(opt.Dir, opt); err != nil {
			return err
		}
		db, err = badger.Open(opt)
		return err
	})
	if err == nil {
		err = l.err()
	}
	if err == nil {
		return db, nil
	}
	if db != nil {
		_ = guarded(db.Close)
	}
	if errors.Is(err, ErrDamaged) || environmental(err) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s does not open: %w", ErrDamaged, opt.Dir, err)
}

// environmental reports whether an error says more of the machine than of the
// data: setting the store aside would not help.
func environmental(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EPERM, syscall.EROFS,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, os.ErrPermission} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
