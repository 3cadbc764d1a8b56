package hsmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"

	"warder/hsm"
)

func createRoot(t *testing.T, token hsm.Token) hsm.RootKey {
	t.Helper()
	key, err := token.CreateRootKey(t.Context(), "contract")
	if err != nil {
		t.Fatalf("making a root key: %v", err)
	}
	return key
}

func encrypt(t *testing.T, key hsm.RootKey, plain []byte) []byte {
	t.Helper()
	sealed, err := hsm.EncryptOAEP(key.Public(), key.Hash(), plain)
	if err != nil {
		t.Fatalf("encrypting: %v", err)
	}
	return sealed
}

func decrypts(t *testing.T, key hsm.RootKey) {
	t.Helper()
	const want = "a random secret of thirty-two b."
	plain, err := key.Decrypt(t.Context(), encrypt(t, key, []byte(want)))
	if err != nil || string(plain) != want {
		t.Errorf("decrypting gave %q, %v", plain, err)
	}
}

func digest(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func verify(t *testing.T, public crypto.PublicKey, digest, signature []byte) {
	t.Helper()
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, digest, signature) {
		t.Errorf("signature does not verify under a %T", public)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s gave %v, want %v", what, err, want)
	}
}

// atOnce does the same thing four times at a time.
func atOnce(do func() error) []error {
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = do() })
	}
	all.Wait()
	return errs
}
