package broker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
)

// addKeyed adds the operations with a private key.
func addKeyed(t map[string]operation) {
	t["ed25519"] = operation{params: []kind{kindEd25519, kindBytes}, result: kindBytes, run: func(_ *env, a []value) (value, error) {
		b, err := signEd25519(a[0].key, a[1].b)
		return value{b: b}, err
	}}
	t["ecdsa_p256"] = operation{params: []kind{kindP256, kindBytes}, result: kindBytes, run: func(e *env, a []value) (value, error) {
		b, err := e.signP256(a[0].key, a[1].b)
		return value{b: b}, err
	}}
	t["rsa_pkcs1"] = operation{params: []kind{kindName, kindRSA, kindBytes}, result: kindBytes, check: isRSAHash, run: func(_ *env, a []value) (value, error) {
		b, err := signRSA(string(a[0].b), a[1].key, a[2].b)
		return value{b: b}, err
	}}
	t["jwt"] = operation{params: []kind{kindAnyKey, kindText, kindText}, result: kindText, run: func(e *env, a []value) (value, error) {
		return e.jwt(a[0].key, a[1].b, a[2].b)
	}}
}

func signEd25519(key crypto.Signer, message []byte) ([]byte, error) {
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: an Ed25519 key is needed", ErrField)
	}
	return ed25519.Sign(k, message), nil
}

func rsaHash(name string) crypto.Hash {
	return map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}[name]
}

func isRSAHash(_ *Profile, literals []string) error {
	if rsaHash(literals[0]) == 0 {
		return fmt.Errorf("%q is no hash for RSA", literals[0])
	}
	return nil
}

// signRSA is RSASSA-PKCS1-v1_5 (RFC 8017 section 8.2).
func signRSA(hash string, key crypto.Signer, message []byte) ([]byte, error) {
	k, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: an RSA key is needed", ErrField)
	}
	h := newHash(hash)()
	h.Write(message)
	return rsa.SignPKCS1v15(nil, k, rsaHash(hash), h.Sum(nil))
}

// signP256 gives r || s, 64 bytes, of SHA-256 (RFC 7518 section 3.4), deterministic
// as in RFC 6979. When a lease is verified and the caller's signature is another
// valid one, that is given back: ECDSA signatures of one message are many.
func (e *env) signP256(key crypto.Signer, message []byte) ([]byte, error) {
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: a P-256 key is needed", ErrField)
	}
	sum := sha256.Sum256(message)
	if verifiesP256(&k.PublicKey, sum, e.presented) {
		return e.presented, nil
	}
	der, err := k.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out, nil
}

// verifiesP256 verifies r || s, 64 bytes.
func verifiesP256(key *ecdsa.PublicKey, digest [sha256.Size]byte, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// jwt signs header and claims as a compact JWS (RFC 7515 section 3.1). Both must be
// JSON: an expression that makes none is a fault of the profile, found here.
func (e *env) jwt(key crypto.Signer, header, claims []byte) (value, error) {
	for _, part := range [][]byte{header, claims} {
		if _, err := indexJSON(part); err != nil {
			return value{}, err
		}
	}
	b64 := base64.RawURLEncoding
	input := b64.EncodeToString(header) + "." + b64.EncodeToString(claims)
	var sig []byte
	var err error
	if _, ok := key.(ed25519.PrivateKey); ok {
		sig, err = signEd25519(key, []byte(input))
	} else {
		sig, err = e.signP256(key, []byte(input))
	}
	return text(input + "." + b64.EncodeToString(sig)), err
}
