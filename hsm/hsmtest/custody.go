package hsmtest

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"testing"

	"warder/hsm"
)

// custody: a KEK made on one token and carried to the other signs with the same device keys on both.
func custody(t *testing.T, token, other hsm.Token) {
	ctx := t.Context()
	id, absent := newKEK(t), newKEK(t)
	hasKEK(t, token, id, false)
	made := 0
	for _, err := range atOnce(func() error { return token.CreateKEK(ctx, id) }) {
		if err == nil {
			made++
			continue
		}
		wantError(t, "making a KEK at the same time as another", err, hsm.ErrBadInput)
	}
	if made != 1 {
		t.Fatalf("%d of those who made the KEK at once succeeded, want 1", made)
	}
	hasKEK(t, token, id, true)
	wantError(t, "making a KEK twice", token.CreateKEK(ctx, id), hsm.ErrBadInput)

	key, err := token.GenerateWrapped(ctx, id, hsm.ECDSAP256SHA256)
	if err != nil {
		t.Fatalf("making a device key: %v", err)
	}
	signsWrapped(t, token, id, key)
	signsWrapped(t, token, id, key) // a cached key, where there is a cache
	_, err = token.GenerateWrapped(ctx, absent, hsm.ECDSAP256SHA256)
	wantError(t, "a device key under no KEK", err, hsm.ErrKeyNotFound)
	_, err = token.SignWrapped(ctx, absent, key, digest("x"))
	wantError(t, "signing under no KEK", err, hsm.ErrKeyNotFound)
	_, err = token.GenerateWrapped(ctx, id, hsm.Ed25519)
	wantError(t, "an Ed25519 key in custody", err, hsm.ErrMechanism)
	wrongWrapped(t, token, id, key)
	carry(t, token, other, id, key)
}

func wrongWrapped(t *testing.T, token hsm.Token, id hsm.KEKID, key hsm.WrappedKey) {
	ctx := t.Context()
	another, err := token.GenerateWrapped(ctx, id, hsm.ECDSAP256SHA256)
	if err != nil {
		t.Fatal(err)
	}
	flipped := key
	flipped.Blob = bytes.Clone(key.Blob)
	flipped.Blob[len(flipped.Blob)/2] ^= 1
	swapped := key
	swapped.Public = another.Public
	short, huge, mute := key, key, key
	short.Blob = key.Blob[:8]
	huge.Blob = make([]byte, 1<<20)
	mute.Public = []byte{0x30}
	for name, wrong := range map[string]hsm.WrappedKey{
		"flipped": flipped, "with another public key": swapped, "cut": short, "of zeros": huge, "without a public key": mute,
	} {
		_, err := token.SignWrapped(ctx, id, wrong, digest("x"))
		wantError(t, "signing with a device key "+name, err, hsm.ErrBadInput)
	}
	_, err = token.SignWrapped(ctx, id, key, []byte("short"))
	wantError(t, "signing a short digest", err, hsm.ErrBadInput)
	if err := token.Check(ctx); err != nil {
		t.Errorf("bad device keys made the token ill: %v", err)
	}
}

func carry(t *testing.T, from, to hsm.Token, id hsm.KEKID, key hsm.WrappedKey) {
	ctx := t.Context()
	transport, err := to.TransportKey(ctx)
	if err != nil {
		t.Fatalf("making the transport key: %v", err)
	}
	again, err := to.TransportKey(ctx)
	if err != nil || !again.Equal(transport) {
		t.Errorf("the transport key changed (%v)", err)
	}
	_, err = from.ExportKEK(ctx, newKEK(t), transport)
	wantError(t, "exporting an unknown KEK", err, hsm.ErrKeyNotFound)
	wrapped, err := from.ExportKEK(ctx, id, transport)
	if err != nil {
		t.Fatalf("exporting the KEK: %v", err)
	}
	flipped := bytes.Clone(wrapped)
	flipped[len(flipped)-1] ^= 1
	for name, wrong := range map[string][]byte{"nothing": nil, "of another version": {9, 9, 9}, "flipped": flipped} {
		wantError(t, "importing a KEK "+name, to.ImportKEK(ctx, id, wrong), hsm.ErrBadInput)
	}
	hasKEK(t, to, id, false)
	for _, err := range atOnce(func() error { return to.ImportKEK(ctx, id, wrapped) }) {
		if err != nil {
			t.Fatalf("importing the KEK: %v", err)
		}
	}
	if err := to.ImportKEK(ctx, id, wrapped); err != nil {
		t.Fatalf("importing the KEK again: %v", err)
	}
	hasKEK(t, to, id, true)
	signsWrapped(t, to, id, key)
}

// custodyRefused: a token that cannot says so for each part, and makes nothing.
func custodyRefused(t *testing.T, token hsm.Token) {
	ctx, id := t.Context(), newKEK(t)
	wantError(t, "making a KEK", token.CreateKEK(ctx, id), hsm.ErrMechanism)
	_, err := token.GenerateWrapped(ctx, id, hsm.ECDSAP256SHA256)
	wantError(t, "making a device key", err, hsm.ErrMechanism)
	_, err = token.SignWrapped(ctx, id, hsm.WrappedKey{Algorithm: hsm.ECDSAP256SHA256, Public: []byte{1}, Blob: []byte{1}}, digest("x"))
	wantError(t, "signing with a device key", err, hsm.ErrMechanism)
	wantError(t, "importing a KEK", token.ImportKEK(ctx, id, hsm.EncodeTransport(make([]byte, 384))), hsm.ErrMechanism)
	hasKEK(t, token, id, false)
}

func signsWrapped(t *testing.T, token hsm.Token, id hsm.KEKID, key hsm.WrappedKey) {
	t.Helper()
	d := digest("device")
	signature, err := token.SignWrapped(t.Context(), id, key, d)
	if err != nil {
		t.Fatalf("signing with a device key: %v", err)
	}
	public, err := x509.ParsePKIXPublicKey(key.Public)
	if err != nil {
		t.Fatalf("the device key's public half: %v", err)
	}
	verify(t, public, d, signature)
}

func hasKEK(t *testing.T, token hsm.Token, id hsm.KEKID, want bool) {
	t.Helper()
	if has, err := token.HasKEK(t.Context(), id); err != nil || has != want {
		t.Errorf("has the KEK: %v (%v), want %v", has, err, want)
	}
}

func newKEK(t *testing.T) hsm.KEKID {
	t.Helper()
	var id hsm.KEKID
	rand.Read(id[:])
	return id
}
