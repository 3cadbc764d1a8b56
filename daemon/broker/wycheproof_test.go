package broker_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"warder/daemon/broker"
	"warder/hsm/wycheproof"
)

// sign evaluates an expression over a vector's message, which it reads as hexdec(json('/m')), with one field 's'.
func sign(expr, fieldType string, field, text []byte) ([]byte, error) {
	return broker.Eval(expr, message(hex.EncodeToString(text)), map[string]string{"s": fieldType}, map[string][]byte{"s": field}, broker.Moment{})
}

// TestWycheproofHMAC gives vectors of HMAC to the operation that profiles sign with. A tag of half the size is compared
// with half of what it gives: no profile cuts one.
func TestWycheproofHMAC(t *testing.T) {
	for name, expect := range map[string]wycheproof.Expect{
		"sha1":   {Valid: 66, Invalid: 104},
		"sha256": {Valid: 66, Invalid: 108},
		"sha384": {Valid: 66, Invalid: 108},
		"sha512": {Valid: 66, Invalid: 108},
	} {
		expr := fmt.Sprintf("hmac('%s', cred('s'), hexdec(json('/m')))", name)
		wycheproof.Run(t, "hmac_"+name, expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
			mac, err := sign(expr, "hex", []byte(hex.EncodeToString(v.Key)), v.Message)
			if err != nil {
				t.Fatalf("%s, test %d: %v", name, v.ID, err)
			}
			return wycheproof.Took(bytes.Equal(mac[:g.TagSize/8], v.Tag))
		})
	}
}

// TestWycheproofRSA gives vectors of RSASSA-PKCS1-v1_5 to the operation that profiles sign with. SHA-1 and small public
// exponents are "acceptable", and accepted: the broker chose them, and the key is its customer's.
func TestWycheproofRSA(t *testing.T) {
	for name, expect := range map[string]wycheproof.Expect{
		"rsa_pkcs1_2048_sig_gen": {Valid: 24, Either: 11, Acceptable: wycheproof.Accepted},
		"rsa_pkcs1_3072_sig_gen": {Valid: 24, Either: 2, Acceptable: wycheproof.Accepted},
	} {
		wycheproof.Run(t, name, expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
			hash := strings.ToLower(strings.ReplaceAll(g.SHA, "-", ""))
			if hash == "sha224" {
				return wycheproof.Unfit
			}
			key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: g.PKCS8})
			got, err := sign(fmt.Sprintf("rsa_pkcs1('%s', cred('s'), hexdec(json('/m')))", hash), "pem rsa", key, v.Message)
			if err != nil && !errors.Is(err, broker.ErrField) {
				t.Errorf("%s, test %d: %v", name, v.ID, err)
			}
			return wycheproof.Took(bytes.Equal(got, v.Sig))
		})
	}
}

// TestWycheproofP256 gives vectors of ECDSA to what weighs a signature made with a lease: r || s, 64 bytes.
func TestWycheproofP256(t *testing.T) {
	expect := wycheproof.Expect{Valid: 173, Invalid: 89}
	wycheproof.Run(t, "ecdsa_secp256r1_sha256_p1363", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		public, err := x509.ParsePKIXPublicKey(g.Public)
		if err != nil {
			t.Fatal(err)
		}
		key := public.(*ecdsa.PublicKey)
		if broker.VerifiesP256(key, v.Message, append(slices.Clone(v.Sig), 0)) {
			t.Errorf("test %d: with one byte more it was accepted", v.ID)
		}
		return wycheproof.Took(broker.VerifiesP256(key, v.Message, v.Sig))
	})
}

// TestWycheproofES256 gives vectors of JSON web signatures (RFC 7518, section 3.4) to the same check: some have signatures
// that are longer than r || s.
func TestWycheproofES256(t *testing.T) {
	expect := wycheproof.Expect{Valid: 2, Invalid: 35}
	wycheproof.Run(t, "json_web_signature", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		at := strings.LastIndexByte(v.JWS, '.')
		if !strings.EqualFold(g.Comment, "es256") && g.Comment != "SpecialCaseEs256" || at < 0 {
			return wycheproof.Unfit
		}
		signature, err := base64.RawURLEncoding.DecodeString(v.JWS[at+1:])
		return wycheproof.Took(err == nil && broker.VerifiesP256(p256(t, g.JWK), []byte(v.JWS[:at]), signature))
	})
}

// p256 reads a JWK of a P-256 key (RFC 7518, section 6.2.1).
func p256(t *testing.T, jwk []byte) *ecdsa.PublicKey {
	t.Helper()
	var key struct{ X, Y string }
	if err := json.Unmarshal(jwk, &key); err != nil {
		t.Fatal(err)
	}
	x, errX := base64.RawURLEncoding.DecodeString(key.X)
	y, errY := base64.RawURLEncoding.DecodeString(key.Y)
	if err := errors.Join(errX, errY); err != nil {
		t.Fatal(err)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		t.Fatal(err)
	}
	return public
}
