package keystore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"warder/keystore"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

// TestWithRetired takes an entry through changes that give it a retired version and take it away again. Each time the
// list names just the entries that have one, of their kind and of every namespace.
func TestWithRetired(t *testing.T) {
	db, _ := keystoretest.Open(t)
	quiet := keystore.Ref{Kind: "credential", Namespace: "prod", Name: "quiet"}
	foreign := keystore.Ref{Kind: "key", Namespace: "prod", Name: "binance"}
	other := keystore.Ref{Kind: "credential", Namespace: "test", Name: "binance"}
	for _, r := range []keystore.Ref{ref, quiet, foreign, other} {
		create(t, db, r, "one")
	}
	list := func() (names []string) {
		t.Helper()
		err := db.View(t.Context(), func(tx *kv.Tx) error {
			for r, err := range keystore.WithRetired(tx, "credential") {
				if err != nil {
					return err
				}
				names = append(names, r.String())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	rotate := func(r keystore.Ref) func(*kv.Tx) error {
		return func(tx *kv.Tx) error {
			_, err := keystore.AddVersion(tx, r, secret("two"), nil, keystore.Active, epoch.Add(time.Hour))
			return err
		}
	}
	for _, step := range []struct {
		name   string
		change func(*kv.Tx) error
		want   string
	}{
		{"rotate a key", rotate(foreign), ""},
		{"rotate", rotate(ref), "credential prod/binance"},
		{"rotate in another namespace", rotate(other), "credential prod/binance, credential test/binance"},
		{"rotate once more", rotate(ref), "credential prod/binance, credential test/binance"},
		{"destroy one of two", func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 1, epoch); return err }, "credential prod/binance, credential test/binance"},
		{"destroy the other", func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 2, epoch); return err }, "credential test/binance"},
		{"delete", func(tx *kv.Tx) error { return keystore.Delete(tx, other) }, ""},
		{"make it anew", func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, other, nil, secret("one"), nil, epoch)
			return err
		}, ""},
		{"two rotations in one change", func(tx *kv.Tx) error {
			if err := rotate(other)(tx); err != nil {
				return err
			}
			return rotate(other)(tx)
		}, "credential test/binance"},
	} {
		mustUpdate(t, db, step.change)
		if got := strings.Join(list(), ", "); got != step.want {
			t.Errorf("%s: the list is %q, want %q", step.name, got, step.want)
		}
	}
}
