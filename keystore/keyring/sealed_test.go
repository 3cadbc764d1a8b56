package keyring_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warder/keystore/keyring"
)

// xor is a recipient for tests: its wrapping is the secret xored with a stream that its id gives.
type xor string

func (x xor) ID() string { return string(x) }

func (x xor) Wrap(secret []byte) ([]byte, error) {
	if len(secret) != 32 {
		return nil, fmt.Errorf("%d bytes to wrap", len(secret))
	}
	out := make([]byte, len(secret))
	for i := range secret {
		out[i] = secret[i] ^ x[i%len(x)] ^ 0x5a
	}
	return out, nil
}

func (x xor) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	if len(wrapped) != 32 {
		return nil, keyring.ErrDamaged
	}
	return x.Wrap(wrapped)
}

// broken refuses, or gives what it must not.
type broken struct {
	id  string
	out []byte
	err error
}

func (r broken) ID() string                                         { return r.id }
func (r broken) Wrap([]byte) ([]byte, error)                        { return r.out, r.err }
func (r broken) Unwrap(_ context.Context, _ []byte) ([]byte, error) { return r.out, r.err }
func recipients(ids ...string) (out []keyring.Recipient) {
	for _, id := range ids {
		out = append(out, xor(id))
	}
	return out
}

func TestEachRecipientUnseals(t *testing.T) {
	k := newRing(t)
	value := k.Seal(nil, []byte("v"))
	sealed := must[[]byte](t)(k.SealTo("cluster-1", 7, recipients("a", "b", "recovery")))
	for _, id := range []string{"a", "b", "recovery"} {
		got := must[*keyring.Keyring](t)(keyring.Unseal(t.Context(), sealed, xor(id)))
		if opened, err := got.Open(nil, value); err != nil || string(opened) != "v" {
			t.Errorf("%s: %q, %v", id, opened, err)
		}
		if got.Commitment() != k.Commitment() || got.Blind(nil, "x") != k.Blind(nil, "x") || got.Derive("x") != k.Derive("x") {
			t.Errorf("%s unsealed another keyring", id)
		}
	}
	if _, err := keyring.Unseal(t.Context(), sealed, xor("c")); !errors.Is(err, keyring.ErrNotRecipient) {
		t.Errorf("a stranger: %v", err)
	}
	h := must[keyring.Header](t)(keyring.Inspect(sealed))
	if h.ClusterID != "cluster-1" || h.Epoch != 7 || h.Commitment != k.Commitment() || !slices.Equal(h.Recipients, []string{"a", "b", "recovery"}) {
		t.Errorf("header %+v", h)
	}
}

// TestEveryByteIsBound flips each byte, each way that matters, cuts at each length, and adds one.
func TestEveryByteIsBound(t *testing.T) {
	grown, _, err := newRing(t).AddDataKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed := must[[]byte](t)(grown.SealTo("c", 1, recipients("a", "b")))
	refused := func(what string, at int, damaged []byte) {
		t.Helper()
		for _, id := range []string{"a", "b"} {
			k, err := keyring.Unseal(t.Context(), damaged, xor(id))
			if k != nil || !errors.Is(err, keyring.ErrDamaged) && !errors.Is(err, keyring.ErrNotRecipient) {
				t.Fatalf("%s %d, opened by %s: %v, %v", what, at, id, k, err)
			}
		}
	}
	for at := range sealed {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			damaged := bytes.Clone(sealed)
			damaged[at] ^= mask
			refused("changed", at, damaged)
		}
		refused("cut at", at, sealed[:at])
	}
	refused("longer", len(sealed), append(bytes.Clone(sealed), 0))
}

// TestSplicing puts together parts of two sealings of one keyring: none opens.
func TestSplicing(t *testing.T) {
	k := newRing(t)
	one := must[[]byte](t)(k.SealTo("c", 1, recipients("a", "b")))
	two := must[[]byte](t)(k.SealTo("c", 1, recipients("a", "b")))
	if bytes.Equal(one, two) || len(one) != len(two) {
		t.Fatal("two sealings are alike")
	}
	for at := 1; at < len(one); at++ {
		spliced := append(bytes.Clone(one[:at]), two[at:]...)
		if bytes.Equal(spliced, one) || bytes.Equal(spliced, two) {
			continue
		}
		for _, id := range []string{"a", "b"} {
			if _, err := keyring.Unseal(t.Context(), spliced, xor(id)); !errors.Is(err, keyring.ErrDamaged) {
				t.Fatalf("spliced at %d, opened by %s: %v", at, id, err)
			}
		}
	}
}

func TestInspectRefusesADuplicate(t *testing.T) {
	sealed := must[[]byte](t)(newRing(t).SealTo("c", 1, recipients("first", "other")))
	twice := bytes.Replace(sealed, []byte("other"), []byte("first"), 1)
	if h, err := keyring.Inspect(twice); !errors.Is(err, keyring.ErrDamaged) || len(h.Recipients) != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestSealToRefuses(t *testing.T) {
	k := newRing(t)
	many := make([]string, keyring.MaxRecipients+1)
	for i := range many {
		many[i] = fmt.Sprint("r", i)
	}
	long := strings.Repeat("x", keyring.MaxID+1)
	wide := func(n, size int) (out []keyring.Recipient) {
		for i := range n {
			out = append(out, broken{id: fmt.Sprint(i), out: make([]byte, size)})
		}
		return out
	}
	for name, c := range map[string]struct {
		cluster string
		to      []keyring.Recipient
	}{
		"nobody":                {"c", nil},
		"too many":              {"c", recipients(many...)},
		"twice":                 {"c", recipients("a", "b", "a")},
		"no cluster":            {"", recipients("a")},
		"a long cluster":        {long, recipients("a")},
		"a recipient of no id":  {"c", []keyring.Recipient{broken{}}},
		"a recipient's long id": {"c", recipients(long)},
		"a failing recipient":   {"c", []keyring.Recipient{broken{id: "a", err: errors.New("no")}}},
		"a large wrapping":      {"c", wide(1, keyring.MaxWrapped+1)},
		"too large as a whole":  {"c", wide(40, keyring.MaxWrapped)},
	} {
		if sealed, err := k.SealTo(c.cluster, 1, c.to); err == nil || sealed != nil {
			t.Errorf("%s: %d bytes, %v", name, len(sealed), err)
		}
	}
	most := must[[]byte](t)(k.SealTo(long[:keyring.MaxID], 1<<63, recipients(many[:keyring.MaxRecipients]...)))
	if _, err := keyring.Unseal(t.Context(), most, xor("r63")); err != nil {
		t.Errorf("the most recipients: %v", err)
	}
}

func TestUnsealWithABrokenToken(t *testing.T) {
	sealed := must[[]byte](t)(newRing(t).SealTo("c", 1, recipients("a")))
	gone := errors.New("the token is gone")
	for name, c := range map[string]struct {
		token broken
		want  error
	}{
		"gone":               {broken{id: "a", err: gone}, gone},
		"another secret":     {broken{id: "a", out: make([]byte, 32)}, keyring.ErrDamaged},
		"too short a secret": {broken{id: "a", out: make([]byte, 31)}, keyring.ErrDamaged},
		"nothing":            {broken{id: "a"}, keyring.ErrDamaged},
	} {
		if k, err := keyring.Unseal(t.Context(), sealed, c.token); !errors.Is(err, c.want) || k != nil {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
}

// TestSealedVector unseals a keyring that an earlier version sealed.
func TestSealedVector(t *testing.T) {
	var v struct {
		Recipient, ClusterID, Sealed, Commitment string
		Epoch                                    uint64
		DataKeys                                 []keyring.DataKey
	}
	readVector(t, "sealed.json", &v)
	k := must[*keyring.Keyring](t)(keyring.Unseal(t.Context(), unhex(t, v.Sealed), xor(v.Recipient)))
	commitment := k.Commitment()
	if hex.EncodeToString(commitment[:]) != v.Commitment || !slices.Equal(k.DataKeys(), v.DataKeys) {
		t.Errorf("unsealed %x with %v", commitment, k.DataKeys())
	}
	h := must[keyring.Header](t)(keyring.Inspect(unhex(t, v.Sealed)))
	if h.ClusterID != v.ClusterID || h.Epoch != v.Epoch {
		t.Errorf("header %+v", h)
	}
}

func FuzzUnseal(f *testing.F) {
	var v struct{ Recipient, Sealed string }
	readVector(f, "sealed.json", &v)
	sealed := unhex(f, v.Sealed)
	f.Add(sealed)
	f.Add(sealed[:40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := keyring.Inspect(data)
		if err != nil && !errors.Is(err, keyring.ErrDamaged) || err == nil && len(h.Recipients) == 0 {
			t.Fatalf("header %+v, %v", h, err)
		}
		if got, err := keyring.Unseal(t.Context(), data, xor(v.Recipient)); err == nil && !bytes.Equal(data, sealed) {
			t.Fatalf("a forgery opened: %v", got)
		}
	})
}

func readVector(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
