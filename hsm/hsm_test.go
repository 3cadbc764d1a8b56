package hsm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"warder/hsm"
)

func TestEncryptOAEP(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []hsm.Hash{hsm.SHA1, hsm.SHA256} {
		sealed, err := hsm.EncryptOAEP(&key.PublicKey, h, []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		fn, err := h.New()
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := rsa.DecryptOAEP(fn, nil, key, sealed, nil); err != nil || string(plain) != "plain" {
			t.Errorf("%s: got %q, %v", h, plain, err)
		}
		if _, err := hsm.EncryptOAEP(&key.PublicKey, h, make([]byte, 256)); !errors.Is(err, hsm.ErrBadInput) {
			t.Errorf("%s: too long a plaintext gave %v", h, err)
		}
	}
	if _, err := hsm.EncryptOAEP(&key.PublicKey, "MD5", nil); !errors.Is(err, hsm.ErrBadInput) {
		t.Errorf("an unknown hash gave %v", err)
	}
	if _, err := hsm.EncryptOAEP(nil, hsm.SHA256, nil); !errors.Is(err, hsm.ErrBadInput) {
		t.Errorf("no key gave %v", err)
	}
}

func TestFingerprint(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	fp, err := hsm.FingerprintOf(&key.PublicKey)
	if err != nil || fp != hsm.Fingerprint(sha256.Sum256(der)) {
		t.Fatalf("got %v, %v", fp, err)
	}
	if again, err := hsm.ParseFingerprint(fp.String()); err != nil || again != fp {
		t.Errorf("round trip: %v, %v", again, err)
	}
	good := hsm.Fingerprint{0xab}.String()
	for _, bad := range []string{"", good[7:], strings.ToUpper(good), good + "0", good[:70], " " + good, "sha256:" + strings.Repeat("g", 64)} {
		if _, err := hsm.ParseFingerprint(bad); !errors.Is(err, hsm.ErrBadInput) {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

func TestParseAlgorithm(t *testing.T) {
	for _, good := range []string{"ecdsa-p256-sha256", "ed25519"} {
		if a, err := hsm.ParseAlgorithm(good); err != nil || string(a) != good {
			t.Errorf("%q gave %q, %v", good, a, err)
		}
	}
	for _, bad := range []string{"", "Ed25519", "ed25519 ", "rsa"} {
		if _, err := hsm.ParseAlgorithm(bad); !errors.Is(err, hsm.ErrBadInput) {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

// FuzzTransport: whatever is taken apart is what EncodeTransport makes.
func FuzzTransport(f *testing.F) {
	f.Add([]byte{1, 1, 9})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wrapped []byte) {
		ciphertext, err := hsm.DecodeTransport(wrapped)
		if err == nil && !bytes.Equal(hsm.EncodeTransport(ciphertext), wrapped) {
			t.Errorf("%x came back changed", wrapped)
		}
	})
}

// FuzzParseFingerprint: one fingerprint has one spelling.
func FuzzParseFingerprint(f *testing.F) {
	f.Add(hsm.Fingerprint{1}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if fp, err := hsm.ParseFingerprint(s); err == nil && fp.String() != s {
			t.Errorf("%q parsed, and is spelled %q", s, fp)
		}
	})
}

// FuzzParsePIN: a source that is refused does not show what was given, which may be a PIN.
func FuzzParsePIN(f *testing.F) {
	f.Add("file:/p")
	f.Add("12345678")
	f.Fuzz(func(t *testing.T, spec string) {
		if _, err := hsm.ParsePIN(spec); err != nil && len(spec) > 40 && strings.Contains(err.Error(), spec) {
			t.Errorf("the error shows %q", spec)
		}
	})
}
