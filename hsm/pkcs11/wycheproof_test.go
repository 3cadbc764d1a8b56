package pkcs11_test

import (
	"bytes"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"testing"

	"warder/hsm"
	"warder/hsm/wycheproof"
)

// A wrapped device key holds a P-256 key, and Wycheproof's wrapped keys hold noise. So each vector is moved: it is taken
// apart with its own key, and what is right or wrong with it is done to a device key, wrapped under a KEK that is
// brought into the token the way that another token's would be. The token is asked to sign with it.

// custodian is a token with a KEK that the test knows, and a device key that the test has.
type custodian struct {
	token  hsm.Token
	kek    []byte
	id     hsm.KEKID
	pkcs8  []byte
	public []byte
}

func newCustodian(t *testing.T, token hsm.Token) custodian {
	t.Helper()
	c := custodian{token: token, kek: make([]byte, 32), id: hsm.KEKID{1}}
	rand.Read(c.kek)
	transport, err := token.TransportKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := hsm.EncryptOAEP(transport, hsm.TransportHash, c.kek)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.ImportKEK(t.Context(), c.id, hsm.EncodeTransport(wrapped)); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if c.pkcs8, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	if c.public, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		t.Fatal(err)
	}
	return c
}

// takes says whether the token signs with a blob of this form. It may refuse in one way only.
func (c custodian) takes(t *testing.T, form byte, wrapped []byte) wycheproof.Verdict {
	t.Helper()
	digest := sha256.Sum256([]byte("wycheproof"))
	key := hsm.WrappedKey{Algorithm: hsm.ECDSAP256SHA256, Public: c.public, Blob: append([]byte{form}, wrapped...)}
	_, err := c.token.SignWrapped(t.Context(), c.id, key, digest[:])
	if err != nil && !errors.Is(err, hsm.ErrBadInput) {
		t.Errorf("a refusal of another kind: %v", err)
	}
	return wycheproof.Took(err == nil)
}

// TestWycheproofKWP moves vectors of AES-KWP (RFC 5649) into SoftHSM.
func TestWycheproofKWP(t *testing.T) {
	c := newCustodian(t, open(t, softToken(t)))
	expect := wycheproof.Expect{Valid: 25, Invalid: 69}
	wycheproof.Run(t, "aes_kwp", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if g.KeySize != 256 {
			return wycheproof.Unfit
		}
		if len(v.Cipher) < 16 { // too short to take apart: given as it is
			return c.takes(t, 1, v.Cipher)
		}
		check, padding := moveKWP(unwrapRaw(t, v.Key, v.Cipher), len(c.pkcs8))
		return c.takes(t, 1, wrapRaw(t, c.kek, check, append(bytes.Clone(c.pkcs8), padding...)))
	})
}

// TestWycheproofKW moves vectors of AES-KW (RFC 3394) into NSS, which pads by itself (wrapPadded). A key of 8 bytes,
// whose wrapping is "acceptable", cannot be told from another when it is moved.
func TestWycheproofKW(t *testing.T) {
	c := newCustodian(t, open(t, nssToken(t)))
	pad := 8 - len(c.pkcs8)%8
	padded := append(bytes.Clone(c.pkcs8), bytes.Repeat([]byte{byte(pad)}, pad)...)
	expect := wycheproof.Expect{Valid: 13, Invalid: 54}
	wycheproof.Run(t, "aes_wrap", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if g.KeySize != 256 || v.Result == "acceptable" {
			return wycheproof.Unfit
		}
		if len(v.Cipher) < 24 || len(v.Cipher)%8 != 0 { // not to be taken apart: given as it is
			return c.takes(t, 2, v.Cipher)
		}
		return c.takes(t, 2, wrapRaw(t, c.kek, [8]byte(unwrapRaw(t, v.Key, v.Cipher)), padded))
	})
}

// moveKWP gives the alternative initial value (RFC 5649, section 3) and the padding of a message of the size given, wrong
// where the vector's are: a length that does not fit the blocks is as far off, and padding that is not zero stays so.
func moveKWP(raw []byte, size int) (check [8]byte, padding []byte) {
	blocks, own := len(raw)-8, (size+7)/8*8
	claimed := int(binary.BigEndian.Uint32(raw[4:]))
	padding = make([]byte, own-size)
	moved := size
	if claimed > blocks || claimed <= blocks-8 {
		moved = own + claimed - blocks
	} else {
		for i, b := range raw[8+claimed:] {
			padding[i%len(padding)] |= b
		}
	}
	copy(check[:4], raw)
	binary.BigEndian.PutUint32(check[4:], uint32(moved)) //nolint:gosec // wraps around where the vector's does
	return check, padding
}

// wrapRaw is the wrapping of RFC 3394, section 2.2.1, with any initial value.
func wrapRaw(t *testing.T, key []byte, check [8]byte, plain []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := append(check[:], plain...)
	buffer := make([]byte, 16)
	for j := range 6 {
		for i := 1; i <= len(plain)/8; i++ {
			copy(buffer, out[:8])
			copy(buffer[8:], out[8*i:8*i+8])
			block.Encrypt(buffer, buffer)
			binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(buffer)^uint64(len(plain)/8*j+i))
			copy(out[8*i:], buffer[8:])
		}
	}
	return out
}

// unwrapRaw gives the initial value and the padded plaintext, unjudged (RFC 3394, section 2.2.2; RFC 5649, section 4.2).
func unwrapRaw(t *testing.T, key, wrapped []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(wrapped)
	if len(out) == 16 {
		block.Decrypt(out, out)
		return out
	}
	n := len(out)/8 - 1
	buffer := make([]byte, 16)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(buffer, binary.BigEndian.Uint64(out)^uint64(n*j+i))
			copy(buffer[8:], out[8*i:8*i+8])
			block.Decrypt(buffer, buffer)
			copy(out, buffer[:8])
			copy(out[8*i:], buffer[8:])
		}
	}
	return out
}
