package keystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"warder/keystore/kv"
)

// Bounds, in bytes and in versions.
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
	ErrTooLarge        = errors.New("larger than an entry may be")
	ErrTooMany         = errors.New("the entry has as many versions as it can: delete it and make a new one")
	ErrDamaged         = errors.New("the entry's material does not open")
)

// Ref names an entry. Kind is the domain's ("credential"); the namespace is part of every record's key.
type Ref struct{ Kind, Namespace, Name string }

// Version is one version's public part. Info is the caller's own encoding and not secret.
type Version struct {
	Number  uint32    `json:"number"`
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	Retired time.Time `json:"retired,omitzero"`
	Info    []byte    `json:"info,omitempty"`
}

// Entry is the public part of a secret or key, its versions ascending by number.
type Entry struct {
	Ref      Ref
	Info     []byte
	Versions []Version
	// Revision is the state machine's, and changes with every change of the entry.
	Revision uint64
}

// stored is an entry as its record has it.
type stored struct {
	Info     []byte    `json:"info,omitempty"`
	Versions []Version `json:"versions"`
}

// Prefix is where the entries of a kind are, for watching.
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

func (e *Entry) find(number uint32) (*Version, error) {
	at := slices.IndexFunc(e.Versions, func(v Version) bool { return v.Number == number })
	if at < 0 {
		return nil, fmt.Errorf("%w: %d", ErrNoVersion, number)
	}
	return &e.Versions[at], nil
}

// Create makes an entry whose first version is active, or gives ErrExists.
func Create(tx *kv.Tx, ref Ref, info []byte, material Secret, versionInfo []byte, now time.Time) (Entry, error) {
	_, err := Get(tx, ref)
	if err == nil {
		return Entry{}, fmt.Errorf("%w: %s %s/%s", ErrExists, ref.Kind, ref.Namespace, ref.Name)
	}
	if !errors.Is(err, ErrNotFound) {
		return Entry{}, err
	}
	return add(tx, Entry{Ref: ref, Info: info}, material, versionInfo, Active, now)
}

// AddVersion adds a version, pending or active; an active one retires the one before it.
func AddVersion(tx *kv.Tx, ref Ref, material Secret, versionInfo []byte, state State, now time.Time) (Entry, error) {
	if state != Pending && state != Active {
		return Entry{}, fmt.Errorf("%w: a version begins as pending or active", ErrTransition)
	}
	entry, err := Get(tx, ref)
	if err != nil {
		return Entry{}, err
	}
	return add(tx, entry, material, versionInfo, state, now)
}

func add(tx *kv.Tx, entry Entry, material Secret, info []byte, state State, now time.Time) (Entry, error) {
	switch {
	case material.Len() == 0 || material.Len() > MaxMaterial:
		return Entry{}, fmt.Errorf("%w: material of %d bytes; want 1 to %d", ErrTooLarge, material.Len(), MaxMaterial)
	case len(info) > MaxInfo || len(entry.Info) > MaxInfo:
		return Entry{}, fmt.Errorf("%w: info of more than %d bytes", ErrTooLarge, MaxInfo)
	case len(entry.Versions) >= MaxVersions:
		return Entry{}, ErrTooMany
	}
	number := uint32(1)
	if n := len(entry.Versions); n > 0 {
		number = entry.Versions[n-1].Number + 1
	}
	if state == Active {
		entry.retireActive(now)
	}
	entry.Versions = append(entry.Versions, Version{Number: number, State: state, Created: now.UTC(), Info: info})
	if err := putMaterial(tx, entry.Ref, number, material); err != nil {
		return Entry{}, err
	}
	return entry, entry.put(tx)
}

func (e *Entry) retireActive(now time.Time) {
	for i := range e.Versions {
		if e.Versions[i].State == Active {
			e.Versions[i].State, e.Versions[i].Retired = Retired, now.UTC()
		}
	}
}

// Get gives an entry's public part, or ErrNotFound.
func Get(tx *kv.Tx, ref Ref) (Entry, error) {
	text, revision, err := tx.Get(ref.key())
	if errors.Is(err, kv.ErrNotFound) {
		return Entry{}, fmt.Errorf("%w: %s %s/%s", ErrNotFound, ref.Kind, ref.Namespace, ref.Name)
	}
	if err != nil {
		return Entry{}, err
	}
	return decode(ref, text, revision)
}

// List yields a namespace's entries of a kind, in no particular order.
func List(tx *kv.Tx, kind, namespace string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for item, err := range tx.Scan(kv.K("entry", kind, namespace)) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			parts := item.Key.Parts()
			entry, err := decode(Ref{Kind: kind, Namespace: namespace, Name: parts[len(parts)-1]}, item.Value, item.Rev)
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// SetState moves a version to another state, where the table allows it. Making one active retires the active one.
// Destroying is Destroy's.
func SetState(tx *kv.Tx, ref Ref, number uint32, state State, now time.Time) (Entry, error) {
	entry, err := Get(tx, ref)
	if err != nil {
		return Entry{}, err
	}
	version, err := entry.find(number)
	if err != nil {
		return Entry{}, err
	}
	if state == Destroyed || !version.State.MayBecome(state) {
		return Entry{}, fmt.Errorf("%w: version %d is %s and cannot become %s", ErrTransition, number, version.State, state)
	}
	switch state {
	case Active:
		entry.retireActive(now)
		version.Retired = time.Time{}
	case Retired:
		version.Retired = now.UTC()
	}
	version.State = state
	return entry, entry.put(tx)
}

// Destroy shreds a version: its own key and its material are deleted, its public part stays, destroyed.
func Destroy(tx *kv.Tx, ref Ref, number uint32, now time.Time) (Entry, error) {
	entry, err := Get(tx, ref)
	if err != nil {
		return Entry{}, err
	}
	version, err := entry.find(number)
	if err != nil {
		return Entry{}, err
	}
	if version.State == Destroyed {
		return Entry{}, fmt.Errorf("%w: version %d", ErrDestroyed, number)
	}
	if version.Retired.IsZero() {
		version.Retired = now.UTC()
	}
	version.State = Destroyed
	shred(tx, ref, number)
	return entry, entry.put(tx)
}

// Delete shreds every version and forgets the entry.
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
	return nil
}

func (e Entry) put(tx *kv.Tx) error {
	text, err := json.Marshal(stored{Info: e.Info, Versions: e.Versions})
	if err != nil {
		return fmt.Errorf("encode an entry: %w", err)
	}
	tx.Put(e.Ref.key(), text)
	return nil
}

func decode(ref Ref, text []byte, revision uint64) (Entry, error) {
	var record stored
	if err := json.Unmarshal(text, &record); err != nil {
		return Entry{}, fmt.Errorf("%w: the record of %s %s/%s does not parse", ErrDamaged, ref.Kind, ref.Namespace, ref.Name)
	}
	return Entry{Ref: ref, Info: record.Info, Versions: record.Versions, Revision: revision}, nil
}

func versionPart(number uint32) string { return strconv.FormatUint(uint64(number), 10) }
