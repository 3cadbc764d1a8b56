package kv_test

import (
	"bytes"
	"testing"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// TestFloorReadsWhatTheKeyringSeals holds what the store reads of a seal, on its
// own, to what the keyring writes.
func TestFloorReadsWhatTheKeyringSeals(t *testing.T) {
	_, _, keys := openDB(t)
	ring := keys.ring.Load()
	for range 300 { // ids of two bytes too
		next, id, err := ring.AddDataKey()
		must(t, err)
		ring, err = next.Activate(id)
		must(t, err)
		ring, err = ring.DropDataKey(id - 1)
		must(t, err)
	}
	value := ring.Seal(nil, nil)
	id, err := keyring.KeyID(value)
	must(t, err)
	other := bytes.Clone(value)
	other[0]++ // of a version to come
	for floor, want := range map[uint32]kv.Status{id - 1: kv.StatusOK, id: kv.StatusOK, id + 1: kv.StatusStaleKey, id << 8: kv.StatusStaleKey} {
		s := openStore(t, t.TempDir())
		f := []byte{byte(floor >> 24), byte(floor >> 16), byte(floor >> 8), byte(floor)}
		r := apply(t, s, 1, kv.Batch{Put: []kv.Put{{Target: kv.Target{Space: kv.SpaceFloor}, Sealed: f}}},
			kv.Batch{Put: []kv.Put{{Target: record("a"), Sealed: value}}},
			kv.Batch{Append: []kv.Append{{Target: logOf("l"), Sealed: value}}},
			kv.Batch{Put: []kv.Put{{Target: record("a"), Sealed: other}}})
		if r[1].Status != want || r[2].Status != want || r[3].Status != kv.StatusStaleKey {
			t.Errorf("key %d, floor %d: %v, %v, of another version %v", id, floor, r[1].Status, r[2].Status, r[3].Status)
		}
	}
}
