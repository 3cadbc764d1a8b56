package keystore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/keystore"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

var (
	epoch = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	ref   = keystore.Ref{Kind: "credential", Namespace: "prod", Name: "binance"}
)

func secret(text string) keystore.Secret { return keystore.NewSecret([]byte(text)) }

// update runs fn in a transaction and gives its error.
func update(t testing.TB, db *kv.DB, fn func(*kv.Tx) error) error {
	t.Helper()
	return db.Update(t.Context(), fn)
}

func mustUpdate(t testing.TB, db *kv.DB, fn func(*kv.Tx) error) {
	t.Helper()
	if err := update(t, db, fn); err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, db *kv.DB, ref keystore.Ref, material string) {
	t.Helper()
	mustUpdate(t, db, func(tx *kv.Tx) error {
		_, err := keystore.Create(tx, ref, []byte("info"), secret(material), []byte("v1"), epoch)
		return err
	})
}

func entryOf(t testing.TB, db *kv.DB, ref keystore.Ref) (entry keystore.Entry, err error) {
	t.Helper()
	err = db.View(t.Context(), func(tx *kv.Tx) (err error) { entry, err = keystore.Get(tx, ref); return err })
	return entry, err
}

func material(t testing.TB, db *kv.DB, ref keystore.Ref, number uint32) (text string, err error) {
	t.Helper()
	err = db.View(t.Context(), func(tx *kv.Tx) error {
		s, _, err := keystore.Material(tx, ref, number)
		text = string(s.Reveal())
		return err
	})
	return text, err
}

func TestLife(t *testing.T) {
	db, _ := keystoretest.Open(t)
	create(t, db, ref, "one")
	mustUpdate(t, db, func(tx *kv.Tx) error {
		_, err := keystore.AddVersion(tx, ref, secret("two"), []byte("v2"), keystore.Pending, epoch.Add(time.Hour))
		return err
	})
	if got, err := material(t, db, ref, 0); err != nil || got != "one" {
		t.Errorf("the active material beside a pending one: %q, %v", got, err)
	}
	if got, err := material(t, db, ref, 2); err != nil || got != "two" {
		t.Errorf("the pending material: %q, %v", got, err)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error {
		_, err := keystore.SetState(tx, ref, 2, keystore.Active, epoch.Add(2*time.Hour))
		return err
	})
	mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 1, epoch.Add(3*time.Hour)); return err })

	e, err := entryOf(t, db, ref)
	if err != nil || string(e.Info) != "info" || e.Revision != 4 || e.Ref != ref {
		t.Fatalf("%+v, %v", e, err)
	}
	want := []keystore.Version{
		{Number: 1, State: keystore.Destroyed, Created: epoch, Retired: epoch.Add(2 * time.Hour), Destroyed: epoch.Add(3 * time.Hour), Info: []byte("v1")},
		{Number: 2, State: keystore.Active, Created: epoch.Add(time.Hour), Info: []byte("v2")},
	}
	if got := fmt.Sprint(e.Versions); got != fmt.Sprint(want) {
		t.Errorf("versions %s, want %v", got, want)
	}
	if v, ok := e.Active(); !ok || v.Number != 2 {
		t.Errorf("active: %v, %v", v, ok)
	}
	if got, err := material(t, db, ref, 0); err != nil || got != "two" {
		t.Errorf("the active material: %q, %v", got, err)
	}
	if _, err := material(t, db, ref, 1); !errors.Is(err, keystore.ErrDestroyed) {
		t.Errorf("destroyed material: %v", err)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error { return keystore.Delete(tx, ref) })
	if _, err := entryOf(t, db, ref); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error {
		for _, prefix := range []string{"entry", "entry-key", "entry-material"} {
			for item, err := range tx.Scan(kv.K(prefix)) {
				t.Errorf("Delete left %v, %v", item.Key, err)
			}
		}
		return nil
	})
}

// TestTransitions walks the whole table through the store: each state to each state, each refusal.
func TestTransitions(t *testing.T) {
	states := []keystore.State{0, keystore.Pending, keystore.Active, keystore.Retired, keystore.Destroyed, 5, 255}
	allowed := map[[2]keystore.State]bool{
		{keystore.Pending, keystore.Active}: true, {keystore.Pending, keystore.Destroyed}: true,
		{keystore.Active, keystore.Retired}: true, {keystore.Active, keystore.Destroyed}: true,
		{keystore.Retired, keystore.Active}: true, {keystore.Retired, keystore.Destroyed}: true,
	}
	db, _ := keystoretest.Open(t)
	for _, from := range states {
		for _, to := range states {
			if got := from.MayBecome(to); got != allowed[[2]keystore.State{from, to}] {
				t.Errorf("%v may become %v: %v", from, to, got)
			}
			if from >= keystore.Pending && from <= keystore.Destroyed {
				transition(t, db, from, to, allowed[[2]keystore.State{from, to}])
			}
		}
	}
}

// transition brings a second version into a state and tries to bring it into another.
func transition(t *testing.T, db *kv.DB, from, to keystore.State, want bool) {
	t.Helper()
	ref := keystore.Ref{Kind: "k", Namespace: "ns", Name: fmt.Sprintf("%d-%d", from, to)}
	create(t, db, ref, "one")
	mustUpdate(t, db, func(tx *kv.Tx) error { return reach(tx, ref, from) })
	err := update(t, db, func(tx *kv.Tx) (err error) {
		if to == keystore.Destroyed {
			_, err = keystore.Destroy(tx, ref, 2, epoch)
		} else {
			_, err = keystore.SetState(tx, ref, 2, to, epoch)
		}
		return err
	})
	e, getErr := entryOf(t, db, ref)
	if getErr != nil {
		t.Fatal(getErr)
	}
	after := e.Versions[1].State
	refused := errors.Is(err, keystore.ErrTransition) || errors.Is(err, keystore.ErrDestroyed)
	if want && (err != nil || after != to) || !want && (!refused || after != from) {
		t.Errorf("%v to %v: now %v, %v", from, to, after, err)
	}
	if want && to == keystore.Active && e.Versions[0].State != keystore.Retired {
		t.Errorf("%v to active: the one that was is %v", from, e.Versions[0].State)
	}
}

func reach(tx *kv.Tx, ref keystore.Ref, state keystore.State) error {
	begin := keystore.Active
	if state == keystore.Pending {
		begin = keystore.Pending
	}
	if _, err := keystore.AddVersion(tx, ref, secret("two"), nil, begin, epoch); err != nil {
		return err
	}
	var err error
	switch state {
	case keystore.Retired:
		_, err = keystore.SetState(tx, ref, 2, state, epoch)
	case keystore.Destroyed:
		_, err = keystore.Destroy(tx, ref, 2, epoch)
	}
	return err
}

func TestRefusals(t *testing.T) {
	db, _ := keystoretest.Open(t)
	create(t, db, ref, "one")
	stranger := keystore.Ref{Kind: ref.Kind, Namespace: "staging", Name: ref.Name}
	large := func(n int) keystore.Secret { return keystore.NewSecret(make([]byte, n)) }
	for name, c := range map[string]struct {
		want error
		do   func(*kv.Tx) error
	}{
		"create twice": {keystore.ErrExists, func(tx *kv.Tx) error { _, err := keystore.Create(tx, ref, nil, secret("x"), nil, epoch); return err }},
		"no material": {keystore.ErrTooLarge, func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, stranger, nil, keystore.Secret{}, nil, epoch)
			return err
		}},
		"much material": {keystore.ErrTooLarge, func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, stranger, nil, large(keystore.MaxMaterial+1), nil, epoch)
			return err
		}},
		"much info": {keystore.ErrTooLarge, func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, stranger, make([]byte, keystore.MaxInfo+1), secret("x"), nil, epoch)
			return err
		}},
		"much version info": {keystore.ErrTooLarge, func(tx *kv.Tx) error {
			_, err := keystore.AddVersion(tx, ref, secret("x"), make([]byte, keystore.MaxInfo+1), keystore.Active, epoch)
			return err
		}},
		"a bad name": {kv.ErrBadKey, func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, keystore.Ref{Kind: "k", Name: "n"}, nil, secret("x"), nil, epoch)
			return err
		}},
		"no clock": {nil, func(tx *kv.Tx) error {
			_, err := keystore.Create(tx, stranger, nil, secret("x"), nil, time.Time{})
			return err
		}},
		"add to nothing": {keystore.ErrNotFound, func(tx *kv.Tx) error {
			_, err := keystore.AddVersion(tx, stranger, secret("x"), nil, keystore.Active, epoch)
			return err
		}},
		"add a retired": {keystore.ErrTransition, func(tx *kv.Tx) error {
			_, err := keystore.AddVersion(tx, ref, secret("x"), nil, keystore.Retired, epoch)
			return err
		}},
		"state of nothing": {keystore.ErrNotFound, func(tx *kv.Tx) error {
			_, err := keystore.SetState(tx, stranger, 1, keystore.Retired, epoch)
			return err
		}},
		"state of no version": {keystore.ErrNoVersion, func(tx *kv.Tx) error { _, err := keystore.SetState(tx, ref, 9, keystore.Active, epoch); return err }},
		"destroy by state":    {keystore.ErrTransition, func(tx *kv.Tx) error { _, err := keystore.SetState(tx, ref, 1, keystore.Destroyed, epoch); return err }},
		"destroy nothing":     {keystore.ErrNotFound, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, stranger, 1, epoch); return err }},
		"destroy no version":  {keystore.ErrNoVersion, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 0, epoch); return err }},
		"delete nothing":      {keystore.ErrNotFound, func(tx *kv.Tx) error { return keystore.Delete(tx, stranger) }},
		"read no version":     {keystore.ErrNoVersion, func(tx *kv.Tx) error { _, _, err := keystore.Material(tx, ref, 2); return err }},
		"read a stranger":     {keystore.ErrNotFound, func(tx *kv.Tx) error { _, _, err := keystore.Material(tx, stranger, 1); return err }},
	} {
		err := update(t, db, c.do)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.SetState(tx, ref, 1, keystore.Retired, epoch); return err })
	if _, err := material(t, db, ref, 0); !errors.Is(err, keystore.ErrNoActiveVersion) {
		t.Errorf("no active version: %v", err)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error {
		_, err := keystore.AddVersion(tx, ref, large(keystore.MaxMaterial), make([]byte, keystore.MaxInfo), keystore.Active, epoch)
		return err
	})
}

// TestShreds sees the key's and the material's records go in the batch that destroys, for each state.
func TestShreds(t *testing.T) {
	db, log := keystoretest.Open(t)
	create(t, db, ref, "one")
	before := log.Proposals()
	mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 1, epoch); return err })
	if n := log.Proposals() - before; n != 1 {
		t.Errorf("destroyed in %d batches", n)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error {
		for _, prefix := range []string{"entry-key", "entry-material"} {
			for item, err := range tx.Scan(kv.K(prefix)) {
				t.Errorf("left: %v, %v", item.Key, err)
			}
		}
		return nil
	})
	if e, err := entryOf(t, db, ref); err != nil || e.Versions[0].State != keystore.Destroyed {
		t.Errorf("%+v, %v", e, err)
	}
}

// versionKey is where docs/formats.md puts a version's records.
func versionKey(prefix string, r keystore.Ref, number byte) kv.Key {
	var name string
	for _, part := range []string{r.Kind, r.Namespace, r.Name} {
		name += string(rune(len(part))) + part
	}
	return kv.K(prefix, name+"\x00\x00\x00"+string(rune(number)))
}

// TestMaterialIsBound moves key and material to another version's, and another entry's, records: it does not open.
func TestMaterialIsBound(t *testing.T) {
	db, _ := keystoretest.Open(t)
	other := keystore.Ref{Kind: ref.Kind, Namespace: "staging", Name: ref.Name}
	create(t, db, ref, "prod")
	create(t, db, other, "staging")
	key := func(prefix string, r keystore.Ref) kv.Key { return versionKey(prefix, r, 1) }
	copyTo := func(prefix string) {
		mustUpdate(t, db, func(tx *kv.Tx) error {
			value, _, err := tx.Get(key(prefix, other))
			tx.Put(key(prefix, ref), value)
			return err
		})
		if _, err := material(t, db, ref, 1); !errors.Is(err, keystore.ErrDamaged) {
			t.Errorf("%s of another entry: %v", prefix, err)
		}
	}
	copyTo("entry-material")
	copyTo("entry-key")
	mustUpdate(t, db, func(tx *kv.Tx) error { tx.Put(key("entry-material", ref), []byte("short")); return nil })
	if _, err := material(t, db, ref, 1); !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("short material: %v", err)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error { tx.Delete(key("entry-key", ref)); return nil })
	if _, err := material(t, db, ref, 1); !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("without its key: %v", err)
	}
}

// TestMaterialIsBoundToItsVersion moves key and material together: the records open, the material does not.
func TestMaterialIsBoundToItsVersion(t *testing.T) {
	db, _ := keystoretest.Open(t)
	create(t, db, ref, "one")
	mustUpdate(t, db, func(tx *kv.Tx) error {
		_, err := keystore.AddVersion(tx, ref, secret("two"), nil, keystore.Active, epoch)
		return err
	})
	mustUpdate(t, db, func(tx *kv.Tx) error {
		for _, prefix := range []string{"entry-key", "entry-material"} {
			value, _, err := tx.Get(versionKey(prefix, ref, 1))
			if err != nil {
				return err
			}
			tx.Put(versionKey(prefix, ref, 2), value)
		}
		return nil
	})
	if _, err := material(t, db, ref, 2); !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("version 1 in the place of version 2: %v", err)
	}
}

func TestList(t *testing.T) {
	db, _ := keystoretest.Open(t)
	for _, r := range []keystore.Ref{
		{"credential", "prod", "a"}, {"credential", "prod", "b"}, {"credential", "staging", "c"}, {"device-key", "prod", "d"},
	} {
		create(t, db, r, "x")
	}
	var got []string
	mustUpdate(t, db, func(tx *kv.Tx) error {
		for e, err := range keystore.List(tx, "credential", "prod") {
			if err != nil {
				return err
			}
			got = append(got, e.Ref.String())
		}
		for range keystore.List(tx, "credential", "prod") {
			break
		}
		return nil
	})
	slices.Sort(got)
	if !slices.Equal(got, []string{"credential prod/a", "credential prod/b"}) {
		t.Errorf("listed %v", got)
	}
}

// TestFullEntry fills an entry: nothing is lost while it holds living versions, and destroyed ones make room.
func TestFullEntry(t *testing.T) {
	db, _ := keystoretest.Open(t)
	create(t, db, ref, "first")
	grow := func(n int, info []byte) error {
		return update(t, db, func(tx *kv.Tx) error {
			for range n {
				if _, err := keystore.AddVersion(tx, ref, secret("x"), info, keystore.Active, epoch); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 7 {
		if err := grow(146, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := grow(1, nil); err != nil {
		t.Fatal(err)
	}
	e, _ := entryOf(t, db, ref)
	if n := len(e.Versions); n != keystore.MaxVersions {
		t.Fatalf("%d versions", n)
	}
	if err := grow(1, nil); !errors.Is(err, keystore.ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
	if got, err := material(t, db, ref, 1); err != nil || got != "first" {
		t.Errorf("the first version: %q, %v", got, err)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 1024, epoch); return err })
	mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 2, epoch); return err })
	if err := grow(1, nil); err != nil {
		t.Error(err)
	}
	e, _ = entryOf(t, db, ref)
	if _, err := e.Version(2); !errors.Is(err, keystore.ErrNoVersion) {
		t.Errorf("the oldest destroyed version did not make room: %v", err)
	}
	if v, ok := e.Active(); !ok || v.Number != 1025 {
		t.Errorf("the newest is %v", v.Number)
	}
	mustUpdate(t, db, func(tx *kv.Tx) error { return keystore.Delete(tx, ref) })

	create(t, db, ref, "first")
	var err error
	added := 0
	for ; err == nil && added < 100; added++ {
		err = grow(1, make([]byte, keystore.MaxInfo))
	}
	if !errors.Is(err, keystore.ErrTooMany) || added != 64 {
		t.Errorf("large infos: %d fitted, %v", added-1, err)
	}
}

// TestFaults holds a caller to what it may believe after each kind of failure.
func TestFaults(t *testing.T) {
	db, log := keystoretest.Open(t)
	add := func() error {
		return update(t, db, func(tx *kv.Tx) error {
			_, err := keystore.AddVersion(tx, ref, secret("two"), nil, keystore.Active, epoch)
			return err
		})
	}
	create(t, db, ref, "one")
	log.Next(keystoretest.NotDone)
	if err := add(); !errors.Is(err, keystoretest.ErrNotDone) {
		t.Error(err)
	}
	if got, _ := material(t, db, ref, 0); got != "one" {
		t.Errorf("not done, and yet %q", got)
	}
	log.Next(keystoretest.DoneButFailed)
	if err := add(); !errors.Is(err, keystoretest.ErrUnknown) {
		t.Error(err)
	}
	if got, _ := material(t, db, ref, 0); got != "two" {
		t.Errorf("done, and yet %q", got)
	}
	log.Next(keystoretest.Conflict, keystoretest.Conflict)
	if err := add(); err != nil {
		t.Errorf("two conflicts: %v", err)
	}
	log.Before(func() {
		mustUpdate(t, db, func(tx *kv.Tx) error { _, err := keystore.Destroy(tx, ref, 1, epoch); return err })
	})
	err := update(t, db, func(tx *kv.Tx) error { _, err := keystore.SetState(tx, ref, 1, keystore.Active, epoch); return err })
	if !errors.Is(err, keystore.ErrDestroyed) {
		t.Errorf("activated what someone else destroyed: %v", err)
	}
	if e, _ := entryOf(t, db, ref); len(e.Versions) != 3 {
		t.Errorf("%d versions", len(e.Versions))
	}
}

// TestCanary greps the store's files for what must not be in them.
func TestCanary(t *testing.T) {
	db, log := keystoretest.Open(t)
	canaries := []string{"canary-material-7f3a", "canary-name-7f3a", "canary-namespace-7f3a", "canary-info-7f3a"}
	r := keystore.Ref{Kind: "credential", Namespace: canaries[2], Name: canaries[1]}
	mustUpdate(t, db, func(tx *kv.Tx) error {
		_, err := keystore.Create(tx, r, []byte(canaries[3]), secret(canaries[0]), []byte(canaries[3]), epoch)
		return err
	})
	if err := db.Store().Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.Walk(log.Dir(), func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		files++
		content, err := os.ReadFile(name)
		for _, canary := range canaries {
			if bytes.Contains(content, []byte(canary)) || strings.Contains(name, canary) {
				t.Errorf("%s is in %s", canary, name)
			}
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files, %v", files, err)
	}
}

func BenchmarkMaterial(b *testing.B) {
	db, _ := keystoretest.Open(b)
	create(b, db, ref, strings.Repeat("s", 256))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := material(b, db, ref, 0); err != nil {
			b.Fatal(err)
		}
	}
}
