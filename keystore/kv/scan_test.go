package kv_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"warder/keystore/kv"
)

// TestAScanHoldsUpNoWrite scans, and in the midst of it writes more than one file of Badger's value log takes. Badger
// locks the file of a value that is looked at in place, and a writer that has filled it waits for that lock: a loop that
// reads on behind such a writer never ended, and the node with it.
func TestAScanHoldsUpNoWrite(t *testing.T) {
	db, _, _ := openDB(t)
	large := bytes.Repeat([]byte("x"), 512<<10)
	update(t, db, func(tx *kv.Tx) { tx.Put(kv.K("ns", "first"), large) })
	written := make(chan error, 1)
	write := func() {
		var err error
		for i := 0; i < 140 && err == nil; i++ {
			err = db.Update(t.Context(), func(tx *kv.Tx) error { tx.Put(kv.K("other", fmt.Sprint(i)), large); return nil })
		}
		written <- err
	}
	must(t, db.View(t.Context(), func(tx *kv.Tx) error {
		for item, err := range tx.Scan(kv.K("ns")) {
			must(t, err)
			go write()
			select {
			case err := <-written:
				must(t, err)
			case <-time.After(20 * time.Second): // ends a test that hangs
				t.Error("a write waits for a scan to go on")
			}
			if _, _, err := tx.Get(item.Key); err != nil {
				t.Error(err)
			}
		}
		return nil
	}))
}
