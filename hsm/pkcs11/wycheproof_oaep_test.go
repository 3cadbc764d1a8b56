package pkcs11_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"hash"
	"math/big"
	"slices"
	"testing"

	"warder/hsm"
	"warder/hsm/wycheproof"
)

// A token's root key never leaves it, and Wycheproof's ciphertexts are for keys of its own. So each vector is moved: it
// is opened without judgement with its own key, written anew for the hash that the token uses, and encrypted to a key
// that the token made.
func TestWycheproofDecrypt(t *testing.T) {
	t.Run("SoftHSM, SHA-1", func(t *testing.T) { decryptVectors(t, open(t, softToken(t)), hsm.SHA1) })
	t.Run("NSS, SHA-256", func(t *testing.T) { decryptVectors(t, open(t, nssToken(t)), hsm.SHA256) })
}

func decryptVectors(t *testing.T, token hsm.Token, want hsm.Hash) {
	root, err := token.CreateRootKey(t.Context(), "vectors")
	if err != nil {
		t.Fatal(err)
	}
	if root.Hash() != want {
		t.Fatalf("the token uses %s", root.Hash())
	}
	expect := wycheproof.Expect{Valid: 10, Invalid: 18}
	wycheproof.Run(t, "rsa_oaep_3072_sha256_mgf1sha256", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		ciphertext, ok := moveOAEP(t, g.PKCS8, v.Cipher, root)
		if !ok || len(v.Label) > 0 { // moved, it would have the label of the token, which is none
			return wycheproof.Unfit
		}
		got, err := root.Decrypt(t.Context(), ciphertext)
		if err != nil && !errors.Is(err, hsm.ErrBadInput) {
			t.Errorf("test %d: %v", v.ID, err)
		}
		return wycheproof.Opened(got, err, v.Message)
	})
}

// moveOAEP gives the ciphertext for another key, or the vector's where it is not as long as a modulus. One that is not
// below the modulus cannot be moved: few such numbers have the length of the other key's.
func moveOAEP(t *testing.T, pkcs8, ciphertext []byte, root hsm.RootKey) (moved []byte, ok bool) {
	t.Helper()
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	from, to := parsed.(*rsa.PrivateKey), root.Public()
	c := new(big.Int).SetBytes(ciphertext)
	if len(ciphertext) != from.Size() || c.Cmp(from.N) >= 0 {
		return ciphertext, len(ciphertext) != from.Size()
	}
	m := new(big.Int).Exp(c, from.D, from.N)
	switch fromEnd := new(big.Int).Sub(from.N, m); {
	case fromEnd.BitLen() < 8: // n-1 stays that of the other key
		m.Sub(to.N, fromEnd)
	case m.BitLen() >= 8: // 0 and 1 stay
		m.SetBytes(recodeOAEP(t, m.FillBytes(make([]byte, from.Size())), root.Hash()))
	}
	return m.Exp(m, big.NewInt(int64(to.E)), to.N).FillBytes(make([]byte, to.Size())), true
}

// recodeOAEP writes an encoded message (RFC 8017, section 7.1.1) of SHA-256 anew for another hash. What is wrong with the
// first byte, the label's hash, the padding or the separator stays wrong: padding grows at its front by zeros.
func recodeOAEP(t *testing.T, em []byte, to hsm.Hash) []byte {
	t.Helper()
	seed, db := bytes.Clone(em[1:33]), bytes.Clone(em[33:])
	mask(seed, sha256.New(), db)
	mask(db, sha256.New(), seed)
	fn, err := to.New()
	if err != nil {
		t.Fatal(err)
	}
	was, own, size := sha256.Sum256(nil), fn.Sum(nil), fn.Size()
	for i := range was { // a digest that is shorter gets every difference all the same
		own[i%size] ^= was[i] ^ db[i]
	}
	db = slices.Concat(own, make([]byte, 2*(32-size)), db[32:])
	seed = seed[:size]
	fn.Reset()
	mask(db, fn, seed)
	mask(seed, fn, db)
	return slices.Concat(em[:1], seed, db)
}

// mask is MGF1 (RFC 8017, appendix B.2.1), of a seed that was not masked or no longer is.
func mask(out []byte, fn hash.Hash, seed []byte) {
	for at, counter := 0, uint32(0); at < len(out); counter++ {
		fn.Reset()
		fn.Write(seed)
		fn.Write(binary.BigEndian.AppendUint32(nil, counter))
		for _, b := range fn.Sum(nil) {
			if at < len(out) {
				out[at] ^= b
				at++
			}
		}
	}
}
