package softtoken_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"warder/hsm"
	"warder/hsm/wycheproof"
)

// rootOf gives the root key of a token that holds a group's private key as one of its own.
func rootOf(t *testing.T, pkcs8 []byte) hsm.RootKey {
	t.Helper()
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	fp, err := hsm.FingerprintOf(&parsed.(*rsa.PrivateKey).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "token")
	token := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("root-%x.key", fp[:])), pkcs8, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := token.RootKey(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestWycheproofDecrypt gives vectors of RSA-OAEP to root keys, and what they open to [hsm.EncryptOAEP]. Warder uses no
// label: a vector with one is valid elsewhere, and must be refused here.
func TestWycheproofDecrypt(t *testing.T) {
	var key hsm.RootKey
	expect := wycheproof.Expect{Valid: 10, Invalid: 19}
	wycheproof.Run(t, "rsa_oaep_3072_sha256_mgf1sha256", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if key == nil {
			key = rootOf(t, g.PKCS8)
		}
		got, err := key.Decrypt(t.Context(), v.Cipher)
		if err != nil && !errors.Is(err, hsm.ErrBadInput) {
			t.Errorf("test %d: %v", v.ID, err)
		}
		if len(v.Label) > 0 {
			if err == nil {
				t.Errorf("test %d: a label was taken for none", v.ID)
			}
			return wycheproof.Unfit
		}
		again, sealErr := hsm.EncryptOAEP(key.Public(), key.Hash(), v.Message)
		if sealErr != nil {
			t.Fatal(sealErr)
		}
		if opened, err := key.Decrypt(t.Context(), again); err != nil || !bytes.Equal(opened, v.Message) {
			t.Errorf("test %d: what was encrypted anew gave %x, %v", v.ID, opened, err)
		}
		return wycheproof.Opened(got, err, v.Message)
	})
}
