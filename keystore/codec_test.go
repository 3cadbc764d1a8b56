package keystore_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"warder/keystore"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

// The record's key, and with it the codec, is reached through the store: a test puts bytes there and reads them back.
func recordKey(r keystore.Ref) kv.Key { return kv.K("entry", r.Kind, r.Namespace, r.Name) }

// readRecord gives what Get makes of a record of these bytes.
func readRecord(t testing.TB, db *kv.DB, record []byte) (entry keystore.Entry, err error) {
	t.Helper()
	err = db.View(t.Context(), func(tx *kv.Tx) (err error) {
		tx.Put(recordKey(ref), record)
		entry, err = keystore.Get(tx, ref)
		return err
	})
	return entry, err
}

type vector struct {
	Name, Record string
	Versions     []string // as a person reads them; none for a record that is refused
}

func describe(e keystore.Entry) (out []string) {
	for _, v := range e.Versions {
		out = append(out, fmt.Sprintf("%d %v created %s retired %s destroyed %s info %q",
			v.Number, v.State, stamp(v.Created), stamp(v.Retired), stamp(v.Destroyed), v.Info))
	}
	return out
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.Format(time.RFC3339Nano)
}

func vectors(t testing.TB) (out []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/entry.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEntryVectors(t *testing.T) {
	db, _ := keystoretest.Open(t)
	for _, v := range vectors(t) {
		record, err := hex.DecodeString(v.Record)
		if err != nil {
			t.Fatal(err)
		}
		e, err := readRecord(t, db, record)
		if len(v.Versions) == 0 {
			if !errors.Is(err, keystore.ErrDamaged) {
				t.Errorf("%s: %v", v.Name, err)
			}
			continue
		}
		if err != nil || fmt.Sprint(describe(e)) != fmt.Sprint(v.Versions) {
			t.Errorf("%s: %q, %v", v.Name, describe(e), err)
		}
	}
}

// FuzzEntry holds the decoder to: refused as damaged, or an entry that can be changed and reads back as it was written.
func FuzzEntry(f *testing.F) {
	for _, v := range vectors(f) {
		record, err := hex.DecodeString(v.Record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	db, _ := keystoretest.Open(f)
	f.Fuzz(func(t *testing.T, record []byte) {
		if len(record) > kv.MaxValueSize {
			return
		}
		e, err := readRecord(t, db, record)
		if err != nil {
			if !errors.Is(err, keystore.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		for i, v := range e.Versions {
			if v.State == keystore.Pending {
				again(t, db, record, e, i)
				return
			}
		}
	})
}

// again makes a pending version active, so that the encoder writes the entry that was read.
func again(t *testing.T, db *kv.DB, record []byte, e keystore.Entry, at int) {
	number := e.Versions[at].Number
	err := db.View(t.Context(), func(tx *kv.Tx) error {
		tx.Put(recordKey(ref), record)
		now := time.Unix(1, 0)
		changed, err := keystore.SetState(tx, ref, number, keystore.Active, now)
		if err != nil {
			return err
		}
		written, _, err := tx.Get(recordKey(ref))
		if err != nil {
			return err
		}
		if len(written) != len(record) {
			t.Errorf("%d bytes read, %d written", len(record), len(written))
		}
		if back, err := keystore.Get(tx, ref); err != nil || fmt.Sprint(describe(back)) != fmt.Sprint(describe(changed)) {
			t.Errorf("written %v, read %v, %v", describe(changed), describe(back), err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestModel holds any run of operations to a model of one entry.
func TestModel(t *testing.T) {
	db, _ := keystoretest.Open(t)
	rapid.Check(t, func(rt *rapid.T) {
		mustUpdate(t, db, func(tx *kv.Tx) error {
			if err := keystore.Delete(tx, ref); err != nil && !errors.Is(err, keystore.ErrNotFound) {
				return err
			}
			_, err := keystore.Create(tx, ref, nil, secret("1"), nil, epoch)
			return err
		})
		model := []keystore.State{keystore.Active} // by number, from 1
		activate := func(at int) {
			for i, state := range model {
				if state == keystore.Active {
					model[i] = keystore.Retired
				}
			}
			model[at] = keystore.Active
		}
		number := func(rt *rapid.T) int { return rapid.IntRange(1, len(model)).Draw(rt, "number") }
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				state := rapid.SampledFrom([]keystore.State{keystore.Pending, keystore.Active}).Draw(rt, "state")
				mustUpdate(t, db, func(tx *kv.Tx) error {
					_, err := keystore.AddVersion(tx, ref, secret(fmt.Sprint(len(model)+1)), nil, state, epoch)
					return err
				})
				if model = append(model, state); state == keystore.Active {
					activate(len(model) - 1)
				}
			},
			"set": func(rt *rapid.T) {
				n, state := number(rt), keystore.State(rapid.IntRange(0, 3).Draw(rt, "state"))
				err := update(t, db, func(tx *kv.Tx) error { _, err := keystore.SetState(tx, ref, uint32(n), state, epoch); return err })
				if (err == nil) != model[n-1].MayBecome(state) {
					rt.Fatalf("version %d from %v to %v: %v", n, model[n-1], state, err)
				}
				if err == nil && state == keystore.Active {
					activate(n - 1)
				} else if err == nil {
					model[n-1] = state
				}
			},
			"destroy": func(rt *rapid.T) {
				n := number(rt)
				err := update(t, db, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, uint32(n), epoch); return err })
				if (err == nil) != (model[n-1] != keystore.Destroyed) {
					rt.Fatalf("destroy version %d, %v: %v", n, model[n-1], err)
				}
				model[n-1] = keystore.Destroyed
			},
			"": func(rt *rapid.T) { holds(t, rt, db, model) },
		})
	})
}

func holds(t *testing.T, rt *rapid.T, db *kv.DB, model []keystore.State) {
	e, err := entryOf(t, db, ref)
	if err != nil || len(e.Versions) != len(model) {
		rt.Fatalf("%d versions, want %d: %v", len(e.Versions), len(model), err)
	}
	for i, want := range model {
		if got := e.Versions[i]; got.State != want || got.Number != uint32(i+1) {
			rt.Fatalf("version %d is %v, want %v", got.Number, got.State, want)
		}
		text, err := material(t, db, ref, uint32(i+1))
		if want == keystore.Destroyed && !errors.Is(err, keystore.ErrDestroyed) || want != keystore.Destroyed && text != fmt.Sprint(i+1) {
			rt.Fatalf("material %d, %v: %q, %v", i+1, want, text, err)
		}
	}
}

// TestRecordKeepsTimes stores times at the edges of what a record can say.
func TestRecordKeepsTimes(t *testing.T) {
	db, _ := keystoretest.Open(t)
	for _, at := range []time.Time{time.Unix(0, 1), time.Unix(1<<33, 999_999_999), time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)} {
		mustUpdate(t, db, func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, ref, nil, secret("x"), nil, at)
			return err
		})
		e, err := entryOf(t, db, ref)
		if err != nil || !e.Versions[0].Created.Equal(at) || e.Versions[0].Created.Location() != time.UTC {
			t.Errorf("%v came back as %v, %v", at, e.Versions, err)
		}
		mustUpdate(t, db, func(tx *kv.Tx) error { return keystore.Delete(tx, ref) })
	}
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 0), time.Date(2263, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if err := update(t, db, func(tx *kv.Tx) error { _, err := keystore.Create(tx, ref, nil, secret("x"), nil, at); return err }); err == nil {
			t.Errorf("%v was stored", at)
		}
	}
}

func TestInfoIsNotShared(t *testing.T) {
	db, _ := keystoretest.Open(t)
	info := []byte("info")
	mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.Create(tx, ref, info, secret("x"), info, epoch); return err })
	clear(info)
	if e, err := entryOf(t, db, ref); err != nil || !bytes.Equal(e.Info, []byte("info")) || !bytes.Equal(e.Versions[0].Info, []byte("info")) {
		t.Errorf("%q, %v", e.Info, err)
	}
}
