package keyring_test

import (
	"bytes"
	"crypto/rand"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"warder/keystore/keyring"
)

func newRing(t testing.TB) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestSealOpen(t *testing.T) {
	k := newRing(t)
	rapid.Check(t, func(t *rapid.T) {
		additional := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "additional")
		plaintext := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "plaintext")
		sealed := k.Seal(additional, plaintext)
		if len(sealed) != len(plaintext)+keyring.Overhead {
			t.Fatalf("%d bytes sealed are %d", len(plaintext), len(sealed))
		}
		got, err := k.Open(additional, sealed)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("opened %x, %v", got, err)
		}
		if _, err := k.Open(append(additional, 0), sealed); !errors.Is(err, keyring.ErrDamaged) {
			t.Fatalf("under other additional data: %v", err)
		}
		at := rapid.IntRange(0, len(sealed)-1).Draw(t, "at")
		sealed[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := k.Open(additional, sealed); !refusedToOpen(err) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
	})
}

func TestOpenRefusesTruncation(t *testing.T) {
	k := newRing(t)
	sealed := k.Seal(nil, []byte("value"))
	for n := range sealed {
		if got, err := k.Open(nil, sealed[:n]); !errors.Is(err, keyring.ErrDamaged) || got != nil {
			t.Errorf("%d bytes of %d: %q, %v", n, len(sealed), got, err)
		}
	}
	if _, err := newRing(t).Open(nil, sealed); !errors.Is(err, keyring.ErrDamaged) {
		t.Errorf("with another cluster's keyring: %v", err)
	}
}

func TestRotation(t *testing.T) {
	first := newRing(t)
	old := first.Seal(nil, []byte("old"))
	grown, id, err := first.AddDataKey()
	if err != nil || id != 2 {
		t.Fatal(id, err)
	}
	if n := len(first.DataKeys()); n != 1 {
		t.Errorf("the first keyring has %d data keys now", n)
	}
	if grown.Active() != 1 {
		t.Errorf("a pending key seals: %d", grown.Active())
	}
	turned := must[*keyring.Keyring](t)(grown.Activate(2))
	want := []keyring.DataKey{{ID: 1, State: keyring.Retired}, {ID: 2, State: keyring.Active}}
	if got := turned.DataKeys(); !slices.Equal(got, want) || turned.Active() != 2 {
		t.Errorf("after the rotation: %v", got)
	}
	sealed := turned.Seal(nil, []byte("new"))
	if got, err := grown.Open(nil, sealed); err != nil || string(got) != "new" {
		t.Errorf("a node where the key is pending still: %q, %v", got, err)
	}
	if got, err := turned.Open(nil, old); err != nil || string(got) != "old" {
		t.Errorf("an old value: %q, %v", got, err)
	}
	if _, err := first.Open(nil, sealed); !errors.Is(err, keyring.ErrNewerKey) {
		t.Errorf("a new value, before the rotation: %v", err)
	}
	dropped := must[*keyring.Keyring](t)(turned.DropDataKey(1))
	if _, err := dropped.Open(nil, old); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("an old value after the drop: %v", err)
	}
	if dropped.Commitment() != first.Commitment() || dropped.Derive("x") != first.Derive("x") || dropped.Blind(nil, "x") != first.Blind(nil, "x") {
		t.Error("a rotation changed what outlives it")
	}
}

func TestTransitionsRefused(t *testing.T) {
	k := newRing(t)
	grown, _, _ := k.AddDataKey()
	turned := must[*keyring.Keyring](t)(grown.Activate(2))
	both, _, _ := grown.AddDataKey()
	passed := must[*keyring.Keyring](t)(both.Activate(3))
	for name, do := range map[string]func() (*keyring.Keyring, error){
		"activate an older":   func() (*keyring.Keyring, error) { return passed.Activate(2) },
		"activate the active": func() (*keyring.Keyring, error) { return k.Activate(1) },
		"activate a retired":  func() (*keyring.Keyring, error) { return turned.Activate(1) },
		"activate an unknown": func() (*keyring.Keyring, error) { return k.Activate(9) },
		"drop the active":     func() (*keyring.Keyring, error) { return turned.DropDataKey(2) },
		"drop an unknown":     func() (*keyring.Keyring, error) { return k.DropDataKey(9) },
	} {
		if got, err := do(); !errors.Is(err, keyring.ErrState) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for range keyring.MaxDataKeys - 1 {
		k, _, _ = k.AddDataKey()
	}
	if _, _, err := k.AddDataKey(); !errors.Is(err, keyring.ErrState) {
		t.Errorf("one data key too many: %v", err)
	}
}

// TestModel holds any run of changes to a model: ids are never given twice, one key is active, and what is not dropped
// opens.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := newRing(t)
		given := map[uint32]bool{1: true}
		values := map[uint32][]byte{}
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				next, id, err := k.AddDataKey()
				if err != nil { // the keyring is full: dropping is another action's
					return
				}
				if given[id] {
					t.Fatalf("data key %d given twice", id)
				}
				k, given[id] = next, true
			},
			"activate": func(t *rapid.T) {
				if next, err := k.Activate(rapid.SampledFrom(k.DataKeys()).Draw(t, "key").ID); err == nil {
					k = next
				}
			},
			"drop": func(t *rapid.T) {
				id := rapid.SampledFrom(k.DataKeys()).Draw(t, "key").ID
				if next, err := k.DropDataKey(id); err == nil {
					k = next
					delete(values, id)
				}
			},
			"seal": func(*rapid.T) { values[k.Active()] = k.Seal(nil, []byte("v")) },
			"unseal": func(t *rapid.T) {
				sealed, err := k.SealTo("c", 1, []keyring.Recipient{xor("a")})
				if err == nil {
					k, err = keyring.Unseal(rt.Context(), sealed, xor("a"))
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				active := 0
				for _, key := range k.DataKeys() {
					if key.State == keyring.Active {
						active++
					}
				}
				if active != 1 {
					t.Fatalf("%d active keys in %v", active, k.DataKeys())
				}
				for id, sealed := range values {
					if _, err := k.Open(nil, sealed); err != nil {
						t.Fatalf("data key %d: %v", id, err)
					}
				}
			},
		})
	})
}

func TestBlind(t *testing.T) {
	k, other := newRing(t), newRing(t)
	a := k.Blind(nil, "a")
	if a != k.Blind(nil, "a") || a == k.Blind(nil, "b") || a == k.Blind(a[:], "a") || a == other.Blind(nil, "a") {
		t.Error("blinding is not a function of key, parent and part")
	}
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			part := fmt.Sprint("part", i)
			want := k.Blind(a[:], part)
			for range 500 {
				if k.Blind(a[:], part) != want {
					t.Error("blinding differs between goroutines")
					return
				}
			}
		})
	}
	wait.Wait()
}

func TestCostsNoMoreThanItsResult(t *testing.T) {
	k := newRing(t)
	additional, plaintext := make([]byte, 65), make([]byte, 256)
	sealed := k.Seal(additional, plaintext)
	for name, c := range map[string]struct {
		want float64
		do   func()
	}{
		"seal": {1, func() { k.Seal(additional, plaintext) }},
		"open": {1, func() { _, _ = k.Open(additional, sealed) }},
	} {
		if got := testing.AllocsPerRun(200, c.do); got > c.want {
			t.Errorf("%s allocates %v times, want %v", name, got, c.want)
		}
	}
}

func TestHolder(t *testing.T) {
	var h keyring.Holder
	if _, err := h.Keyring(); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("the zero holder: %v", err)
	}
	k := newRing(t)
	k.Seal(nil, nil)
	h.Set(k)
	sealed := must[[]byte](t)(k.SealTo("c", 2, []keyring.Recipient{xor("a")}))
	h.Set(must[*keyring.Keyring](t)(keyring.Unseal(t.Context(), sealed, xor("a"))))
	held := must[*keyring.Keyring](t)(h.Keyring())
	held.Seal(nil, nil)
	if held.Seals() != 2 {
		t.Errorf("a newer sealing of the same keys forgot the count: %d", held.Seals())
	}
	h.Set(newRing(t))
	if held = must[*keyring.Keyring](t)(h.Keyring()); held.Seals() != 0 {
		t.Errorf("another key with the same id inherited %d seals", held.Seals())
	}
	h.Clear()
	if _, err := h.Keyring(); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("after Clear: %v", err)
	}
}

func TestPrintsNothing(t *testing.T) {
	canary := bytes.Repeat([]byte{0xc5}, 96)
	k := must[*keyring.Keyring](t)(keyring.New(bytes.NewReader(canary)))
	var out bytes.Buffer
	type nested struct {
		P       *keyring.Keyring
		V       keyring.Keyring
		private keyring.Keyring
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&out, verb+verb+verb, k, *k, nested{k, *k, *k})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "k", k, "n", nested{k, *k, *k})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "k", k, "v", *k)
	for _, trace := range []string{"c5c5", "C5C5", "197 197", "197, 197", "0xc5, 0xc5", "xcxcx"} {
		if strings.Contains(out.String(), trace) || bytes.Contains(out.Bytes(), canary[:4]) {
			t.Fatalf("%s is in what was printed", trace)
		}
	}
	if _, err := json.Marshal(k); err == nil {
		t.Error("JSON took a keyring")
	}
	if err := gob.NewEncoder(&out).Encode(k); err == nil {
		t.Error("gob took a keyring")
	}
}

func TestNewWithoutRandomness(t *testing.T) {
	if k, err := keyring.New(strings.NewReader("short")); err == nil || k != nil {
		t.Errorf("%v, %v", k, err)
	}
}

// TestVectors holds what keyrings derive to testdata/derive.json: it must never change.
func TestVectors(t *testing.T) {
	var v struct {
		Seed, Commitment, DeriveAudit, BlindCredential, BlindCredentialProd string
		Additional, Sealed, Plaintext                                       string
	}
	readVector(t, "derive.json", &v)
	k := must[*keyring.Keyring](t)(keyring.New(bytes.NewReader(unhex(t, v.Seed))))
	commitment, derived := k.Commitment(), k.Derive("audit")
	one := k.Blind(nil, "credential")
	two := k.Blind(one[:], "prod")
	for name, pair := range map[string][2]string{
		"commitment": {hex.EncodeToString(commitment[:]), v.Commitment},
		"derive":     {hex.EncodeToString(derived[:]), v.DeriveAudit},
		"blind 1":    {hex.EncodeToString(one[:]), v.BlindCredential},
		"blind 2":    {hex.EncodeToString(two[:]), v.BlindCredentialProd},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", name, pair[0], pair[1])
		}
	}
	got, err := k.Open(unhex(t, v.Additional), unhex(t, v.Sealed))
	if err != nil || string(got) != v.Plaintext {
		t.Errorf("the sealed value opens to %q, %v", got, err)
	}
}

// refusedToOpen says whether the error is one of those that [keyring.Keyring.Open] gives.
func refusedToOpen(err error) bool {
	return errors.Is(err, keyring.ErrDamaged) || errors.Is(err, keyring.ErrNewerKey) || errors.Is(err, keyring.ErrUnknownKey)
}

func FuzzOpen(f *testing.F) {
	k, err := keyring.New(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, []byte{})
	f.Add([]byte("a"), k.Seal([]byte("b"), []byte("value")))
	f.Fuzz(func(t *testing.T, additional, sealed []byte) {
		if _, err := k.Open(additional, sealed); !refusedToOpen(err) {
			t.Fatalf("a forgery: %v", err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k, additional, plaintext := newRing(b), make([]byte, 65), make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		k.Seal(additional, plaintext)
	}
}

func BenchmarkOpen(b *testing.B) {
	k, additional := newRing(b), make([]byte, 65)
	sealed := k.Seal(additional, make([]byte, 256))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(additional, sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBlind(b *testing.B) {
	k, parent := newRing(b), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		k.Blind(parent, "binance-main")
	}
}
