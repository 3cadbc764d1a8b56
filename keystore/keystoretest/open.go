package keystoretest

import (
	"crypto/rand"
	"testing"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// Open makes a store in a temporary directory with a fresh keyring, and closes it when the test ends.
func Open(t testing.TB) (*kv.DB, *FaultyLog) {
	t.Helper()
	ring, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatalf("keystoretest: %v", err)
	}
	keys := &keyring.Holder{}
	keys.Set(ring)
	return OpenAt(t, t.TempDir(), keys)
}

// OpenAt opens or makes the store in dir with the keys that the caller holds, which may be sealed. It closes the store
// when the test ends; who opens dir again before that closes db.Store() first.
func OpenAt(t testing.TB, dir string, keys *keyring.Holder) (*kv.DB, *FaultyLog) {
	t.Helper()
	store, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	if err != nil {
		t.Fatalf("keystoretest: %v", err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("keystoretest: close the store: %v", err)
		}
	})
	log := &FaultyLog{t: t, store: store, keys: keys, dir: dir}
	return kv.New(store, log, keys), log
}
