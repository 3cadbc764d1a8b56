package device

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"warder/daemon/identity"
	"warder/hsm"
	"warder/keystore"
)

// keyKind is the keystore kind that this package alone touches.
const keyKind = "device-key"

// Custody says where a private key is used.
type Custody string

// The custody levels.
const (
	CustodyHSM    Custody = "hsm"
	CustodySealed Custody = "sealed"
)

// Purpose says what a key may be used for; separate purposes are separate keys (NIST SP 800-57 part 1, 5.2).
type Purpose string

// The purposes.
const (
	PurposeTelemetry Purpose = "telemetry"
	PurposeFirmware  Purpose = "firmware"
	PurposeOrder     Purpose = "order"
)

// Errors of keys. Those of their states and names are keystore's.
var (
	ErrAlgorithm          = errors.New("the key's algorithm is another")
	ErrInput              = errors.New("the input is not what the key's algorithm signs")
	ErrCustodyUnsupported = errors.New("no HSM of this cluster can keep such a key in custody \"hsm\"")
	ErrOwner              = errors.New("a key's owner must be of the key's namespace")
)

// Spec is what a key is for life.
type Spec struct {
	Algorithm hsm.Algorithm      `json:"algorithm"`
	Custody   Custody            `json:"custody"`
	Purpose   Purpose            `json:"purpose"`
	Owner     identity.Principal `json:"owner"`
}

// Key is a key's public part.
type Key struct {
	Namespace, Name identity.Name
	Spec            Spec
	Versions        []KeyVersion
	Revision        uint64
}

// KeyVersion is one version's public part; Public is DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
type KeyVersion struct {
	Number  uint32
	State   keystore.State
	Public  []byte
	Created time.Time
	Retired time.Time
}

// Active gives the version that signs; ok is false where none does.
func (k Key) Active() (version KeyVersion, ok bool) {
	for _, version := range k.Versions {
		if version.State == keystore.Active {
			return version, true
		}
	}
	return KeyVersion{}, false
}

// versionInfo is the public part of a version as it is stored.
type versionInfo struct {
	Public []byte `json:"public"`
}

func ref(namespace, name identity.Name) keystore.Ref {
	return keystore.Ref{Kind: keyKind, Namespace: namespace.String(), Name: name.String()}
}

func fromEntry(entry keystore.Entry) (Key, error) {
	namespace, err := identity.ParseName(entry.Ref.Namespace)
	if err != nil {
		return Key{}, fmt.Errorf("a stored key's namespace: %w", err)
	}
	name, err := identity.ParseName(entry.Ref.Name)
	if err != nil {
		return Key{}, fmt.Errorf("a stored key's name: %w", err)
	}
	key := Key{Namespace: namespace, Name: name, Revision: entry.Revision}
	if err := json.Unmarshal(entry.Info, &key.Spec); err != nil {
		return Key{}, fmt.Errorf("decode key %s/%s: %w", namespace, name, err)
	}
	for _, stored := range entry.Versions {
		var info versionInfo
		if err := json.Unmarshal(stored.Info, &info); err != nil {
			return Key{}, fmt.Errorf("decode version %d of key %s/%s: %w", stored.Number, namespace, name, err)
		}
		key.Versions = append(key.Versions, KeyVersion{
			Number: stored.Number, State: stored.State, Public: info.Public, Created: stored.Created, Retired: stored.Retired,
		})
	}
	return key, nil
}

// generateSealed makes a key pair in this process: the public half in DER SubjectPublicKeyInfo, the private one in PKCS #8.
func generateSealed(algorithm hsm.Algorithm) (public []byte, private keystore.Secret, err error) {
	var signer crypto.Signer
	switch algorithm {
	case hsm.ECDSAP256SHA256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.Ed25519:
		_, signer, err = generateEd25519()
	default:
		err = fmt.Errorf("%w: %q is not known", ErrAlgorithm, algorithm)
	}
	if err != nil {
		return nil, keystore.Secret{}, err
	}
	public, err = x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, keystore.Secret{}, fmt.Errorf("encode a public key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, keystore.Secret{}, fmt.Errorf("encode a private key: %w", err)
	}
	return public, keystore.NewSecret(der), nil
}

func generateEd25519() (ed25519.PublicKey, crypto.Signer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	return public, private, err
}
