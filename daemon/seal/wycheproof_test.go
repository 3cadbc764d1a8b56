package seal_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"warder/daemon/seal"
	"warder/hsm/wycheproof"
)

// TestWycheproofNodeSignature gives vectors of ECDSA on P-256 to what verifies joins and pins.
func TestWycheproofNodeSignature(t *testing.T) {
	expect := wycheproof.Expect{Valid: 174, Invalid: 310}
	wycheproof.Run(t, "ecdsa_secp256r1_sha256", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		public, err := x509.ParsePKIXPublicKey(g.Public)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(v.Message)
		return wycheproof.Took(seal.SignedByNode(public, digest[:], v.Sig))
	})
}

// A node's key is on P-256: a signature by a key of another kind is none.
func TestNodeKeysOfOtherKindsAreRefused(t *testing.T) {
	digest := sha256.Sum256([]byte("a join"))
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if seal.SignedByNode(&key.PublicKey, digest[:], signature) {
			t.Errorf("%s was taken", curve.Params().Name)
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if seal.SignedByNode(public, digest[:], ed25519.Sign(private, digest[:])) {
		t.Error("an Ed25519 key was taken")
	}
}
