package device_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"warder/daemon/device"
	"warder/daemon/identity"
	"warder/hsm"
	"warder/hsm/softtoken"
	"warder/keystore"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

// hardware is a software token with a custody key in it.
type hardware struct {
	token hsm.Token
	id    hsm.KEKID
	err   error
}

func (h *hardware) Token() (hsm.Token, error) { return h.token, h.err }

func (h *hardware) CustodyID(context.Context) (hsm.KEKID, error) { return h.id, nil }

func newKeys(t *testing.T) (*device.Keys, *hardware, *kv.DB) {
	t.Helper()
	token, err := softtoken.Open("")
	if err != nil {
		t.Fatal(err)
	}
	h := &hardware{token: token, id: hsm.KEKID{1}}
	if err := token.CreateKEK(t.Context(), h.id); err != nil {
		t.Fatal(err)
	}
	db, _ := keystoretest.Open(t)
	return device.NewKeys(db, h, time.Now), h, db
}

func name(text string) identity.Name { return identity.MustName(text) }

func spec(algorithm hsm.Algorithm, custody device.Custody) device.Spec {
	owner := identity.Principal{Kind: identity.Device, Namespace: name("plant"), Name: name("meter")}
	return device.Spec{Algorithm: algorithm, Custody: custody, Purpose: device.PurposeTelemetry, Owner: owner}
}

func verifies(t *testing.T, public, input, signature []byte) {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	ok := false
	switch key := parsed.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, input, signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, input, signature)
	}
	if !ok {
		t.Error("the signature does not verify under the key's public half")
	}
}

// TestEveryCustodySignsAndRotates signs with each kind of key, by its active version, before and after a rotation.
func TestEveryCustodySignsAndRotates(t *testing.T) {
	keys, _, _ := newKeys(t)
	digest := sha256.Sum256([]byte("reading"))
	for i, s := range []device.Spec{
		spec(hsm.ECDSAP256SHA256, device.CustodyHSM), spec(hsm.ECDSAP256SHA256, device.CustodySealed), spec(hsm.Ed25519, device.CustodySealed),
	} {
		at := name([]string{"a", "b", "c"}[i])
		key, err := keys.Create(t.Context(), name("plant"), at, s)
		if err != nil {
			t.Fatal(err)
		}
		for version := range uint32(2) {
			signature, err := keys.Sign(t.Context(), key, s.Algorithm, digest[:])
			if err != nil || signature.Version != version+1 || signature.Custody != s.Custody {
				t.Fatalf("%v: %+v, %v", s, signature, err)
			}
			active, _ := key.Active()
			verifies(t, active.Public, digest[:], signature.Bytes)
			if key, err = keys.Rotate(t.Context(), name("plant"), at); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := keys.Sign(t.Context(), key, s.Algorithm, nil); !errors.Is(err, device.ErrInput) {
			t.Errorf("nothing to sign: %v", err)
		}
	}
}

// TestADestroyedKeySignsNoMore destroys the active version of a key whose parsed form is cached.
func TestADestroyedKeySignsNoMore(t *testing.T) {
	keys, _, _ := newKeys(t)
	key, err := keys.Create(t.Context(), name("plant"), name("a"), spec(hsm.Ed25519, device.CustodySealed))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Sign(t.Context(), key, hsm.Ed25519, []byte("once")); err != nil {
		t.Fatal(err)
	}
	destroyed, err := keys.Destroy(t.Context(), name("plant"), name("a"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Sign(t.Context(), destroyed, hsm.Ed25519, []byte("twice")); !errors.Is(err, keystore.ErrNoActiveVersion) {
		t.Errorf("a destroyed key: %v", err)
	}
}

// TestCustodyNeverFallsSilently asks for what the HSM cannot do, and takes the HSM away.
func TestCustodyNeverFallsSilently(t *testing.T) {
	keys, h, _ := newKeys(t)
	if _, err := keys.Create(t.Context(), name("plant"), name("a"), spec("rsa", device.CustodySealed)); !errors.Is(err, device.ErrAlgorithm) {
		t.Errorf("an unknown algorithm: %v", err)
	}
	key, err := keys.Create(t.Context(), name("plant"), name("b"), spec(hsm.ECDSAP256SHA256, device.CustodyHSM))
	if err != nil {
		t.Fatal(err)
	}
	h.err = hsm.ErrUnavailable
	if _, err := keys.Sign(t.Context(), key, hsm.ECDSAP256SHA256, make([]byte, 32)); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("without the HSM: %v; want %v", err, hsm.ErrUnavailable)
	}
	foreign := spec(hsm.Ed25519, device.CustodySealed)
	if _, err := keys.Create(t.Context(), name("other"), name("c"), foreign); !errors.Is(err, device.ErrOwner) {
		t.Errorf("an owner of another namespace: %v", err)
	}
}

// TestAnEnrolmentTokenEnds redeems a token after its end, twice, and changed: always the same answer.
func TestAnEnrolmentTokenEnds(t *testing.T) {
	db, _ := keystoretest.Open(t)
	now := time.Unix(1_700_000_000, 0)
	enrolment := device.NewEnrolment(db, func() time.Time { return now })
	token, expires, err := enrolment.CreateToken(t.Context(), name("plant"), name("meter"), nil, time.Minute)
	if err != nil || !expires.Equal(now.Add(time.Minute)) {
		t.Fatalf("%v, %v", expires, err)
	}
	redeem := func(text string) error {
		_, err := enrolment.Redeem(t.Context(), text, func(*kv.Tx, device.Admission) error { return nil })
		return err
	}
	for _, bad := range []string{"", "wet1", token + "A", "wet2" + token[4:], token[:len(token)-2] + "AA"} {
		if err := redeem(bad); !errors.Is(err, device.ErrEnrolmentRefused) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	now = expires
	if err := redeem(token); !errors.Is(err, device.ErrEnrolmentRefused) {
		t.Errorf("at its end: %v", err)
	}
	now = expires.Add(-time.Nanosecond)
	if err := redeem(token); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	if err := redeem(token); !errors.Is(err, device.ErrEnrolmentRefused) {
		t.Errorf("a second time: %v", err)
	}
	if _, _, err := enrolment.CreateToken(t.Context(), name("plant"), name("meter"), nil, device.MaxEnrolmentTTL+1); err == nil {
		t.Error("a token that lasts too long was made")
	}
}
