package hsmtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"warder/hsm"
)

// Open gives a fresh token that nobody used before. Run calls it twice, and both tokens live to the end of the test.
type Open func(t *testing.T) hsm.Token

// Run holds a token to the contract of [hsm.Token]. What a token says it cannot do (Info().CustodyCapable) it must
// refuse with ErrMechanism: nothing is skipped.
func Run(t *testing.T, open Open) {
	t.Helper()
	token := open(t)
	t.Run("info", func(t *testing.T) { info(t, token) })
	// Making RSA keys is slow, and what follows uses the one that is left over here.
	var key hsm.RootKey
	if !t.Run("root keys", func(t *testing.T) { key = rootKeys(t, token) }) {
		return
	}
	t.Run("node key", func(t *testing.T) { nodeKey(t, token) })
	t.Run("custody", func(t *testing.T) {
		if token.Info().CustodyCapable {
			custody(t, token, open(t))
			return
		}
		custodyRefused(t, token)
	})
	t.Run("bad input", func(t *testing.T) { badInput(t, token, key) })
	t.Run("context", func(t *testing.T) { canceled(t, token) })
	t.Run("concurrency", func(t *testing.T) { concurrency(t, token, key) })
	t.Run("close", func(t *testing.T) { closed(t, token) }) // last: the token is gone after it
}

func info(t *testing.T, token hsm.Token) {
	i := token.Info()
	if i.Module == "" || i.Label == "" {
		t.Errorf("info without a module or a label: %+v", i)
	}
	if _, err := hsm.ParseHash(string(i.OAEP)); err != nil {
		t.Errorf("OAEP hash: %v", err)
	}
	if !i.CustodyCapable && i.Detail == "" {
		t.Error("a token that holds no device keys does not say why")
	}
	if err := token.Check(t.Context()); err != nil {
		t.Errorf("check of a fresh token: %v", err)
	}
}

func rootKeys(t *testing.T, token hsm.Token) hsm.RootKey {
	ctx := t.Context()
	first, second := createRoot(t, token), createRoot(t, token)
	if first.Fingerprint() == second.Fingerprint() {
		t.Fatal("two keys of one label have one fingerprint")
	}
	for _, key := range []hsm.RootKey{first, second} {
		found, err := token.RootKey(ctx, key.Fingerprint())
		if err != nil {
			t.Fatalf("finding the key: %v", err)
		}
		if !found.Public().Equal(key.Public()) || found.Public().N.BitLen() != hsm.RSABits {
			t.Error("found another key than the one made")
		}
		decrypts(t, found)
	}
	if err := token.DestroyKey(ctx, first.Fingerprint()); err != nil {
		t.Fatalf("destroying: %v", err)
	}
	_, err := token.RootKey(ctx, first.Fingerprint())
	wantError(t, "finding a destroyed key", err, hsm.ErrKeyNotFound)
	_, err = first.Decrypt(ctx, encrypt(t, first, []byte("x")))
	wantError(t, "decrypting with a destroyed key", err, hsm.ErrKeyNotFound)
	wantError(t, "destroying a destroyed key", token.DestroyKey(ctx, first.Fingerprint()), hsm.ErrKeyNotFound)
	decrypts(t, second)
	if err := token.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}
	return second
}

func nodeKey(t *testing.T, token hsm.Token) {
	first, err := token.NodeKey(t.Context())
	if err != nil {
		t.Fatalf("making the node key: %v", err)
	}
	again, err := token.NodeKey(t.Context())
	if err != nil {
		t.Fatalf("finding the node key: %v", err)
	}
	if first.Fingerprint() != again.Fingerprint() {
		t.Error("the node key changed")
	}
	d := digest("node")
	signature, err := again.Sign(t.Context(), d)
	if err != nil {
		t.Fatalf("signing: %v", err)
	}
	verify(t, first.Public(), d, signature)
	_, err = first.Sign(t.Context(), d[:31])
	wantError(t, "signing a short digest", err, hsm.ErrBadInput)
}

func badInput(t *testing.T, token hsm.Token, key hsm.RootKey) {
	ctx := t.Context()
	_, err := token.RootKey(ctx, hsm.Fingerprint{1})
	wantError(t, "finding an unknown key", err, hsm.ErrKeyNotFound)
	sealed := encrypt(t, key, []byte("secret"))
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	zero := sealed
	for zero[0] != 0 { // as a number this is the same without its first byte
		zero = encrypt(t, key, []byte("secret"))
	}
	for name, ciphertext := range map[string][]byte{
		"nothing": nil, "one byte": {1}, "cut": sealed[1:], "a leading zero cut": zero[1:], "longer": append(slices.Clone(sealed), 0),
		"flipped": flipped, "zeros": make([]byte, len(sealed)), "above the modulus": bytes.Repeat([]byte{0xff}, len(sealed)),
	} {
		_, err := key.Decrypt(ctx, ciphertext)
		wantError(t, "decrypting "+name, err, hsm.ErrBadInput)
	}
	if err := token.Check(ctx); err != nil {
		t.Errorf("bad input made the token ill: %v", err)
	}
	decrypts(t, key)
}

func canceled(t *testing.T, token hsm.Token) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := token.NodeKey(ctx)
	wantError(t, "a call by a caller that is gone", err, context.Canceled)
	wantError(t, "a check by a caller that is gone", token.Check(ctx), context.Canceled)
	if err := token.Check(t.Context()); err != nil {
		t.Errorf("a caller that left made the token ill: %v", err)
	}
}

func concurrency(t *testing.T, token hsm.Token, key hsm.RootKey) {
	const callers, each = 12, 4
	ctx := t.Context()
	node, err := token.NodeKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sealed := encrypt(t, key, []byte("plain"))
	errs := make(chan error, 3*callers*each)
	var callersDone sync.WaitGroup
	for range callers {
		callersDone.Go(func() {
			for range each {
				plain, err := key.Decrypt(ctx, sealed)
				if err == nil && string(plain) != "plain" {
					err = errors.New("another caller's answer")
				}
				_, signErr := node.Sign(ctx, digest("concurrent"))
				errs <- errors.Join(err, signErr, token.Check(ctx))
			}
		})
	}
	callersDone.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func closed(t *testing.T, token hsm.Token) {
	node, err := token.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	if err := token.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	wantError(t, "a check after close", token.Check(t.Context()), hsm.ErrUnavailable)
	_, err = node.Sign(t.Context(), digest("x"))
	wantError(t, "a signature after close", err, hsm.ErrUnavailable)
}
