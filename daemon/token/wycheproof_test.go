package token_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"warder/daemon/token"
	"warder/hsm/wycheproof"
)

// TestWycheproofEd25519 gives vectors of Ed25519 to the check of a token's signature.
func TestWycheproofEd25519(t *testing.T) {
	expect := wycheproof.Expect{Valid: 88, Invalid: 63}
	wycheproof.Run(t, "ed25519", expect, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		public, err := x509.ParsePKIXPublicKey(g.Public)
		if err != nil {
			t.Fatal(err)
		}
		signature := base64.RawURLEncoding.EncodeToString(v.Sig)
		return wycheproof.Took(token.Verifies(public.(ed25519.PublicKey), string(v.Message), signature))
	})
}

// refused holds both doors to refusing a text as no token of this cluster.
func (w *world) refused(t *testing.T, what, raw string) {
	t.Helper()
	if _, err := w.service.Verify(raw, certificate); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("%s: Verify gave %v, want %v: %s", what, err, token.ErrInvalid, raw)
	}
	if _, err := w.service.Parse(raw); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("%s: Parse gave %v, want %v", what, err, token.ErrInvalid)
	}
}

// TestWycheproofJWS holds the verifier to refusing every JSON web signature of the vectors, those that are valid
// elsewhere too, and every one with one or two of its parts taken from a token that is valid here. Of all that there
// is, only what the service issues is a token.
func TestWycheproofJWS(t *testing.T) {
	w := newWorld(t)
	raw, _ := w.issue(t, request())
	own := strings.Split(raw, ".")
	ran := 0
	for _, group := range wycheproof.Groups(t, "json_web_signature") {
		for _, v := range group.Tests {
			ran++
			w.refused(t, v.Comment, v.JWS)
			parts := strings.Split(v.JWS, ".")
			for mask := 1; mask < 7; mask++ {
				mixed := slices.Clone(parts)
				for i := range min(len(parts), 3) {
					if mask>>i&1 == 1 {
						mixed[i] = own[i]
					}
				}
				if text := strings.Join(mixed, "."); text != raw {
					w.refused(t, fmt.Sprintf("%s, mixed %03b", v.Comment, mask), text)
				}
			}
		}
	}
	if ran != 401 {
		t.Errorf("%d vectors, want 401", ran)
	}
	if _, err := w.service.Verify(raw, certificate); err != nil {
		t.Errorf("the token itself: %v", err)
	}
}

// TestWycheproofAttacks does to a valid token what the vectors, by their comments, do to a valid JSON web signature.
// Whatever an attacker can sign is signed, with what the published keys give him.
func TestWycheproofAttacks(t *testing.T) {
	w := newWorld(t)
	raw, _ := w.issue(t, request())
	p := strings.Split(raw, ".")
	header, payload, signature := p[0], p[1], p[2]
	public := publishedKey(t, w)
	attacks := map[string]string{
		"rejectsModifiedSignature":                   header + "." + payload + "." + flip(signature, 0),
		"rejectsMissingSignature":                    header + "." + payload + ".",
		"rejectsMissingSignatureAndSeparator":        header + "." + payload,
		"rejectsModifiedPayload":                     header + "." + flip(payload, 1) + "." + signature,
		"rejectsMissingPayload":                      header + ".." + signature,
		"rejectsMissingPayloadAndSeparator":          header + "." + signature,
		"rejectsModifiedHeader":                      flip(header, 12) + "." + payload + "." + signature,
		"rejectsMissingHeader":                       "." + payload + "." + signature,
		"rejectsMissingHeaderAndSeparator":           payload + "." + signature,
		"rejectsMissingHeaderAndSignature":           "." + payload + ".",
		"rejectsMissingHeaderSignatureAndSeparators": payload,
		"rejectsEmptyString":                         "",
		"rejectsExtraEmptyComponent":                 raw + ".",
		"rejectsExtraComponent":                      raw + ".foo",
		"rejectsValidJsonSerialization":              fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, payload, header, signature),
		"flattened JSON serialization":               fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, payload, header, signature),
		"rejectsSpacesInMac":                         header + "." + payload + ".    " + signature,
		"spacesInHeader":                             header + "    ." + payload + "." + signature,
		"spacesInPayload":                            header + ".    " + payload + "." + signature,
		"invalidCharactersInHeader":                  header + "####." + payload + "." + signature,
		"invalidCharactersInPayload":                 header + "." + payload + "?." + signature,
		"rejectsInvalidCharacterInsertedInMac":       header + "." + payload + "." + signature + "?",
		"a line break, which decoders skip":          header + "." + payload + "." + signature[:40] + "\n" + signature[40:],
		"invalidBase64Padding":                       header + "." + payload + "." + signature + "==",
		"unused bits of the signature":               header + "." + payload + "." + nextLetter(signature),
		"SisTooBig (S + L, RFC 8032, section 5.1.7)": header + "." + payload + "." + plusOrder(t, signature),
		"rIsZero_sIsZero":                            header + "." + payload + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"TrailingZeros":                              header + "." + payload + "." + base64.RawURLEncoding.EncodeToString(append(decode(t, signature), 0)),
	}
	for _, alg := range []string{"none", "NONE", "nOnE", ""} {
		for _, sig := range []string{"", signature} {
			attacks["algIsNone "+alg+sig] = encode(changed(t, header, "alg", alg)) + "." + payload + "." + sig
		}
	}
	for name, key := range map[string][]byte{
		"key bytes": public, "X of the JWK": []byte(base64.RawURLEncoding.EncodeToString(public)), "empty": {},
	} {
		for _, h := range []string{encode(changed(t, header, "alg", "HS256")), header} {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(h + "." + payload))
			sum := mac.Sum(nil)
			attacks["rejectsSymmetryConfusionAttacks, "+name+h] = h + "." + payload + "." + encode(sum)
			attacks["the same, as long as a signature, "+name+h] = h + "." + payload + "." + encode(append(sum, sum...))
		}
	}
	theirs := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	jwk := map[string]string{"kty": "OKP", "crv": "Ed25519", "x": encode(theirs.Public().(ed25519.PublicKey))}
	for name, value := range map[string]any{
		"jwk": jwk, "jku": "https://example.org/jwks", "x5u": "https://example.org/x5c", "kid": "../../dev/null", "typ": "JWT", "b64": false, "crit": []string{"b64"}, "alg": "Ed25519",
	} {
		h := encode(changed(t, header, name, value))
		attacks["another header under the cluster's own signature, "+name] = w.service.SignUnder(h, payload)
		attacks["rejectsAttackerProvidedEmbedded "+name] = h + "." + payload + "." + encode(ed25519.Sign(theirs, []byte(h+"."+payload)))
	}
	for name, text := range attacks {
		w.refused(t, name, text)
	}
	if len(attacks) != 64 {
		t.Errorf("%d attacks, want 64: did two get one name?", len(attacks))
	}
	if _, err := w.service.Verify(raw, certificate); err != nil {
		t.Errorf("the token itself: %v", err)
	}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flip changes a letter of a text to another of the alphabet.
func flip(text string, at int) string {
	other := "A"
	if text[at] == 'A' {
		other = "B"
	}
	return text[:at] + other + text[at+1:]
}

// nextLetter changes bits of the last letter that a lenient decoder ignores.
func nextLetter(text string) string {
	return text[:len(text)-1] + string(rune(text[len(text)-1]+1))
}

// plusOrder adds the group's order to S: the equation holds for it too.
func plusOrder(t *testing.T, signature string) string {
	t.Helper()
	raw := decode(t, signature)
	s := slices.Clone(raw[32:])
	slices.Reverse(s)
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10) // RFC 8032, section 5.1
	sum := order.Add(order, new(big.Int).SetBytes(s)).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return encode(append(raw[:32:32], sum...))
}

// changed gives a header with one member set.
func changed(t *testing.T, header, name string, value any) []byte {
	t.Helper()
	members := map[string]any{}
	if err := json.Unmarshal(decode(t, header), &members); err != nil {
		t.Fatal(err)
	}
	members[name] = value
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func publishedKey(t *testing.T, w *world) []byte {
	t.Helper()
	text, err := w.service.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ X string } }
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%v: %s", err, text)
	}
	return decode(t, set.Keys[0].X)
}
