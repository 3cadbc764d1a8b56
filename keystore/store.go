package keystore

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"warder/keystore/kv"
)

// Create makes an entry whose first version is active, or gives [ErrExists]. Both infos may be empty.
func Create(tx *kv.Tx, ref Ref, info []byte, material Secret, versionInfo []byte, now time.Time) (Entry, error) {
	_, err := Get(tx, ref)
	if err == nil {
		return Entry{}, fmt.Errorf("%w: %s", ErrExists, ref)
	}
	if !errors.Is(err, ErrNotFound) {
		return Entry{}, err
	}
	if len(info) > MaxInfo {
		return Entry{}, fmt.Errorf("%w: info of %d bytes for %s; at most %d", ErrTooLarge, len(info), ref, MaxInfo)
	}
	return add(tx, Entry{Ref: ref, Info: info}, material, versionInfo, Active, now)
}

// AddVersion adds a version, pending or active; an active one retires the one before it. An entry that holds as many
// versions as it can forgets its oldest destroyed one, or gives [ErrTooMany].
func AddVersion(tx *kv.Tx, ref Ref, material Secret, versionInfo []byte, state State, now time.Time) (Entry, error) {
	if state != Pending && state != Active {
		return Entry{}, fmt.Errorf("%w: a version begins as pending or active, not %s", ErrTransition, state)
	}
	entry, err := Get(tx, ref)
	if err != nil {
		return Entry{}, err
	}
	return add(tx, entry, material, versionInfo, state, now)
}

func add(tx *kv.Tx, entry Entry, material Secret, info []byte, state State, now time.Time) (Entry, error) {
	if n := material.Len(); n == 0 || n > MaxMaterial {
		return Entry{}, fmt.Errorf("%w: material of %d bytes for %s; want 1 to %d", ErrTooLarge, n, entry.Ref, MaxMaterial)
	}
	if len(info) > MaxInfo {
		return Entry{}, fmt.Errorf("%w: version info of %d bytes for %s; at most %d", ErrTooLarge, len(info), entry.Ref, MaxInfo)
	}
	number, err := entry.grow(info, state, now)
	if err != nil {
		return Entry{}, err
	}
	if err := putMaterial(tx, entry.Ref, number, material); err != nil {
		return Entry{}, err
	}
	return entry.put(tx)
}

// Get gives an entry's public part, or [ErrNotFound].
func Get(tx *kv.Tx, ref Ref) (Entry, error) {
	record, revision, err := tx.Get(ref.key())
	if errors.Is(err, kv.ErrNotFound) {
		return Entry{}, fmt.Errorf("%w: %s", ErrNotFound, ref)
	}
	if err != nil {
		return Entry{}, err
	}
	return decode(ref, record, revision)
}

// List yields a namespace's entries of a kind, in no particular order. It ends after an error.
func List(tx *kv.Tx, kind, namespace string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for item, err := range tx.Scan(kv.K("entry", kind, namespace)) {
			var entry Entry
			if err == nil {
				parts := item.Key.Parts()
				ref := Ref{Kind: kind, Namespace: namespace, Name: parts[len(parts)-1]}
				entry, err = decode(ref, item.Value, item.Rev)
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// SetState makes a version active or retired, where the table of transitions allows it; making one active retires the
// one that was. Destroying is [Destroy]'s. The error is [ErrNotFound], [ErrNoVersion], [ErrDestroyed] or
// [ErrTransition].
func SetState(tx *kv.Tx, ref Ref, number uint32, state State, now time.Time) (Entry, error) {
	if state == Destroyed {
		return Entry{}, fmt.Errorf("%w: destroying is a call of its own", ErrTransition)
	}
	entry, err := Get(tx, ref)
	if err != nil {
		return Entry{}, err
	}
	if err := entry.become(number, state, now); err != nil {
		return Entry{}, err
	}
	return entry.put(tx)
}

// Destroy shreds a version, of whatever state: its own key and its material are deleted, its public part stays,
// destroyed. The error is [ErrNotFound], [ErrNoVersion] or [ErrDestroyed].
func Destroy(tx *kv.Tx, ref Ref, number uint32, now time.Time) (Entry, error) {
	entry, err := Get(tx, ref)
	if err != nil {
		return Entry{}, err
	}
	if err := entry.become(number, Destroyed, now); err != nil {
		return Entry{}, err
	}
	shred(tx, ref, number)
	return entry.put(tx)
}

// Delete shreds every version and forgets the entry, or gives [ErrNotFound].
func Delete(tx *kv.Tx, ref Ref) error {
	entry, err := Get(tx, ref)
	if err != nil {
		return err
	}
	for _, version := range entry.Versions {
		if version.State != Destroyed {
			shred(tx, ref, version.Number)
		}
	}
	tx.Delete(ref.key())
	entry.noteRetired(tx, false)
	return nil
}

// put writes the entry and gives it as the transaction sees it now.
func (e Entry) put(tx *kv.Tx) (Entry, error) {
	record, err := e.encode()
	if err != nil {
		return Entry{}, err
	}
	tx.Put(e.Ref.key(), record)
	retired := e.hasRetired()
	e.noteRetired(tx, retired)
	e.Revision, e.retired = 0, retired
	return e, nil
}
