package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"warder/keystore/keyring"
)

// maxAttempts bounds how often Update runs its function. There is no pause
// between two attempts: each proposal waits for its turn in the log, and an
// attempt that lost was beaten by one that did not.
const maxAttempts = 16

// staleWait is how long Update waits for a keyring with another active data
// key: the one that is being retired was announced in the log, and the node is
// about to unseal it.
const staleWait = 500 * time.Millisecond

var (
	// ErrConflict is returned by [DB.Update] when other changes got in first
	// too often, or when an explicit expectation did not hold.
	ErrConflict = errors.New("changed at the same time by someone else; try again")
	// ErrLimit is returned by [DB.Update] when an Add would pass its limit.
	ErrLimit = errors.New("counter is at its limit")
	// ErrNotFound is returned by [Tx.Get] for a record that is not there.
	ErrNotFound = errors.New("no such record")
	// ErrStaleKey is returned by [DB.Update] when this member still seals under
	// a data key that is on its way out, even after it had waited for another.
	ErrStaleKey = errors.New("sealed under a data key that is being retired; try again once this node has the new keyring")
	// ErrReplayed is returned by [DB.Update] when the log says that the change
	// had been applied before it could have been: a fault of the log.
	ErrReplayed = errors.New("change answered as replayed; its outcome is not known")
)

// Log orders entries and applies each to every member's [Store]. Propose
// returns once this member has applied the entry; its result is what
// [Store.Apply] gave for it.
type Log interface {
	Propose(ctx context.Context, entry []byte) (result []byte, err error)
	Barrier(ctx context.Context) error
}

// Keys gives the unsealed keyring, or the error that says why there is none.
// The error passes through DB unchanged.
type Keys interface {
	Keyring() (*keyring.Keyring, error)
}

// DB reads and changes a store through the keyring. It is safe for concurrent
// use, and needs no closing: its watchers do.
type DB struct {
	store *Store
	log   Log
	keys  Keys

	mu       sync.Mutex // guards watchers
	watchers map[*Watcher]struct{}

	resealing sync.Mutex // guards resume; held by Reseal
	resume    []byte     // row key that Reseal goes on from; nil: from the start
}

// New makes a DB over a store that log applies entries to.
func New(s *Store, log Log, keys Keys) *DB {
	return &DB{store: s, log: log, keys: keys, watchers: map[*Watcher]struct{}{}}
}

// Store returns the store that the DB reads.
func (db *DB) Store() *Store { return db.store }

// View runs fn on a consistent reading of what this member has applied, which
// may be behind the cluster: [DB.Barrier] first makes it linearizable. Changes
// that fn makes to the Tx are dropped.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := db.read()
	if err != nil {
		return err
	}
	defer tx.view.release()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.err
}

// Update runs fn, and proposes what it wrote under the condition that nothing
// it read has changed. When something has, fn runs again on the new state, a
// bounded number of times; then the error is [ErrConflict]. So it does when the
// data key that sealed the change is being retired, as soon as this node has
// another; then the error is [ErrStaleKey]. fn must have no effects but on the
// Tx. When fn returns an error nothing is proposed. A function that writes
// nothing and expects nothing is a View.
//
// An error of the log passes through: it decides whether the change may have
// been made.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	var refused error
	for range maxAttempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		again, err := db.attempt(ctx, fn)
		if !again {
			return err
		}
		refused = err
	}
	return fmt.Errorf("%w (%d attempts)", refused, maxAttempts)
}

// attempt runs fn once; again means that err is worth another attempt.
func (db *DB) attempt(ctx context.Context, fn func(*Tx) error) (again bool, err error) {
	tx, entry, err := db.prepare(fn)
	if err != nil || entry == nil {
		return false, err
	}
	r, err := db.propose(ctx, entry)
	if err != nil {
		return false, err
	}
	again, err = tx.settle(r)
	if errors.Is(err, ErrStaleKey) {
		return db.outgrow(ctx, tx.ring, err)
	}
	return again, err
}

// outgrow waits until the node has another active data key than used, whose
// change was refused as stale.
func (db *DB) outgrow(ctx context.Context, used *keyring.Keyring, stale error) (again bool, err error) {
	woken := db.watch(func([]Target) bool { return false }) // Wake signals it all the same
	defer woken.Close()
	late := time.NewTimer(staleWait)
	defer late.Stop()
	for {
		if ring, err := db.keys.Keyring(); err != nil {
			return false, err
		} else if ring.Active() != used.Active() {
			return true, stale
		}
		select {
		case <-woken.C():
		case <-late.C:
			return false, stale
		case <-ctx.Done():
			return false, fmt.Errorf("%w: %w", stale, context.Cause(ctx))
		}
	}
}

// prepare runs fn and lets go of the store before anything is proposed.
func (db *DB) prepare(fn func(*Tx) error) (*Tx, []byte, error) {
	tx, err := db.newTx()
	if err != nil {
		return nil, nil, err
	}
	defer tx.view.release()
	if err := fn(tx); err != nil {
		return nil, nil, err
	}
	entry, err := tx.encode()
	return tx, entry, err
}

func (db *DB) propose(ctx context.Context, entry []byte) (Result, error) {
	answer, err := db.log.Propose(ctx, entry)
	if err != nil {
		return Result{}, err
	}
	return DecodeResult(answer)
}

// Barrier returns when this member has applied everything that was acknowledged
// anywhere before the call.
func (db *DB) Barrier(ctx context.Context) error { return db.log.Barrier(ctx) }
