package keystore

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"warder/keystore/kv"
)

// Bounds, in bytes and in versions. The record that holds an entry's public part is bounded too, by kv.MaxValueSize.
const (
	MaxMaterial = 64 << 10
	MaxInfo     = 16 << 10
	MaxVersions = 1024
)

// Errors of this package.
var (
	ErrNotFound        = errors.New("no such entry")
	ErrExists          = errors.New("an entry of that name exists")
	ErrNoVersion       = errors.New("the entry has no such version")
	ErrNoActiveVersion = errors.New("the entry has no active version: rotate it to make one")
	ErrDestroyed       = errors.New("the version is destroyed: its material is gone for ever")
	ErrTransition      = errors.New("the version's state does not allow the change")
	ErrTooLarge        = errors.New("not of a size that an entry takes")
	ErrTooMany         = errors.New("the entry has as many versions as it can: destroy retired ones")
	ErrDamaged         = errors.New("the entry's record or material is not what was stored")
)

// Ref names an entry. Kind is the domain's ("credential"); the namespace is part of every record's key. Each part has at
// least one byte, and the three together at most 248; kv.ErrBadKey says that they do not.
type Ref struct{ Kind, Namespace, Name string }

// String names the entry for a person.
func (r Ref) String() string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// Version is one version's public part. Times are in UTC, of nanoseconds.
type Version struct {
	// Number counts from 1 and is not given twice in an entry's life.
	Number  uint32
	State   State
	Created time.Time
	// Retired is when the version was last retired, or destroyed before that; zero for a pending and an active one.
	Retired time.Time
	// Destroyed is when it was destroyed; zero before.
	Destroyed time.Time
	// Info is the caller's own encoding, and not secret.
	Info []byte
}

// Entry is the public part of a secret or key, its versions ascending by number.
type Entry struct {
	Ref      Ref
	Info     []byte // the caller's own encoding, and not secret
	Versions []Version
	// Revision is the state machine's as it was read; 0 for an entry that the transaction itself has written. It
	// changes with every change of the entry.
	Revision uint64

	retired bool // it had retired versions when it was read
}

// Prefix is where the public parts of a kind's entries are, for watching. Each change of an entry shows there.
func Prefix(kind string) kv.Key { return kv.K("entry", kind) }

func (r Ref) key() kv.Key { return kv.K("entry", r.Kind, r.Namespace, r.Name) }

// Active gives the active version; ok is false where there is none.
func (e Entry) Active() (version Version, ok bool) {
	at := slices.IndexFunc(e.Versions, func(v Version) bool { return v.State == Active })
	if at < 0 {
		return Version{}, false
	}
	return e.Versions[at], true
}

// Version gives the version of that number, or [ErrNoVersion].
func (e Entry) Version(number uint32) (Version, error) {
	version, err := e.find(number)
	if err != nil {
		return Version{}, err
	}
	return *version, nil
}

func (e Entry) find(number uint32) (*Version, error) {
	at, ok := slices.BinarySearchFunc(e.Versions, number, func(v Version, n uint32) int { return int(v.Number) - int(n) })
	if !ok {
		return nil, fmt.Errorf("%w: version %d of %s", ErrNoVersion, number, e.Ref)
	}
	return &e.Versions[at], nil
}

// become moves a version to another state, where the table allows it. A version that becomes active retires the one
// that was.
func (e *Entry) become(number uint32, next State, now time.Time) error {
	version, err := e.find(number)
	if err != nil {
		return err
	}
	if version.State == Destroyed {
		return fmt.Errorf("%w: version %d of %s", ErrDestroyed, number, e.Ref)
	}
	if !version.State.MayBecome(next) {
		return fmt.Errorf("%w: version %d of %s is %s and cannot become %s", ErrTransition, number, e.Ref, version.State, next)
	}
	if next == Active {
		e.retireActive(now)
	}
	version.enter(next, now)
	return nil
}

func (e *Entry) retireActive(now time.Time) {
	for i := range e.Versions {
		if e.Versions[i].State == Active {
			e.Versions[i].enter(Retired, now)
		}
	}
}

// enter sets the state and the times that belong to it.
func (v *Version) enter(next State, now time.Time) {
	v.State = next
	switch {
	case next == Pending || next == Active:
		v.Retired = time.Time{}
	case next == Retired || v.Retired.IsZero():
		v.Retired = now.UTC()
	}
	if next == Destroyed {
		v.Destroyed = now.UTC()
	}
}

// grow adds a version and gives its number. In a full entry the oldest destroyed version makes room: its public part
// is then in the audit log only.
func (e *Entry) grow(info []byte, state State, now time.Time) (uint32, error) {
	number := uint32(1)
	if n := len(e.Versions); n > 0 {
		number = e.Versions[n-1].Number + 1
	}
	if state == Active {
		e.retireActive(now)
	}
	version := Version{Number: number, Created: now.UTC(), Info: info}
	version.enter(state, now)
	e.Versions = append(e.Versions, version)
	for number == 0 || len(e.Versions) > MaxVersions || e.size() > kv.MaxValueSize {
		at := slices.IndexFunc(e.Versions, func(v Version) bool { return v.State == Destroyed })
		if at < 0 || number == 0 {
			return 0, fmt.Errorf("%w: %s has %d", ErrTooMany, e.Ref, len(e.Versions)-1)
		}
		e.Versions = slices.Delete(e.Versions, at, at+1)
	}
	return number, nil
}
