package verify_test

import (
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"warder/api/verify"
	"warder/hsm/wycheproof"
)

// TestWycheproofCheckpoint holds the reader of checkpoints to refusing signatures that are wrong as those of
// Wycheproof's vectors of Ed25519 are. Their messages are no checkpoints, so that each invalid signature is moved: put
// under a checkpoint whole, and half by half beside the halves (RFC 8032, section 5.1.6) of the signature that belongs there.
func TestWycheproofCheckpoint(t *testing.T) {
	c := sign(t, leaves(t, 2))
	head, encoded := cutSignature(c.Note)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 4+64 { // the key's hash, and the signature
		t.Fatalf("%v: %q", err, encoded)
	}
	hash, own := raw[:4], raw[4:]
	refused := func(what string, signature []byte) {
		t.Helper()
		forged := head + base64.StdEncoding.EncodeToString(slices.Concat(hash, signature)) + "\n"
		if _, err := verify.OpenCheckpoint([]byte(forged), keys(t)...); !errors.Is(err, verify.ErrBadSignature) {
			t.Errorf("%s: %v", what, err)
		}
	}
	moved := 0
	for _, group := range wycheproof.Groups(t, "ed25519") {
		for _, v := range group.Tests {
			if v.Result != "invalid" {
				continue
			}
			moved++
			cut := min(32, len(v.Sig))
			refused(v.Comment, v.Sig)
			refused(v.Comment+", R", slices.Concat(v.Sig[:cut], own[32:]))
			refused(v.Comment+", S", slices.Concat(own[:32], v.Sig[cut:]))
		}
	}
	if moved != 63 {
		t.Errorf("%d vectors, want 63", moved)
	}
	for times := range int64(15) {
		if s, fits := plusOrder(own[32:], times+1); fits {
			refused("SignatureMalleability", slices.Concat(own[:32], s))
		}
	}
	refused("SignatureWithGarbage", append(slices.Clone(own), 0))
	refused("TruncatedSignature", own[:63])
	if _, err := verify.OpenCheckpoint([]byte(head+encoded+"\n"), keys(t)...); err != nil {
		t.Errorf("the checkpoint itself: %v", err)
	}
}

// cutSignature cuts a note before the base64 of its one signature.
func cutSignature(note []byte) (head, encoded string) {
	text := strings.TrimSuffix(string(note), "\n")
	at := strings.LastIndexByte(text, ' ') + 1
	return text[:at], text[at:]
}

// plusOrder adds the group's order (RFC 8032, section 5.1) to S some times: the equation holds for it too. 256 bits have
// room for that 15 times at most.
func plusOrder(s []byte, times int64) (sum []byte, fits bool) {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	number := slices.Clone(s)
	slices.Reverse(number)
	n := order.Add(order.Mul(order, big.NewInt(times)), new(big.Int).SetBytes(number))
	if n.BitLen() > 256 {
		return nil, false
	}
	sum = n.FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return sum, true
}
