package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"warder/hsm"
	"warder/keystore/kv"
)

// Member is what the cluster knows of one node: the key that the keyring is sealed to, and the keys that its
// certificate, its audit checkpoints and the custody key are bound to. Public keys are DER SubjectPublicKeyInfo.
type Member struct {
	Node         string    `json:"node"`
	Address      string    `json:"address"`
	Endpoint     string    `json:"endpoint"`
	NodeKey      []byte    `json:"node_key"`
	TransportKey []byte    `json:"transport_key,omitempty"`
	AuditKey     []byte    `json:"audit_key"`
	Root         RootKey   `json:"root"`
	Next         *RootKey  `json:"next,omitempty"`
	Previous     *RootKey  `json:"previous,omitempty"`
	Admitted     time.Time `json:"admitted"`
}

// RootKey is the public half of a key that only its HSM can decrypt with. Rotation is the rotation that made it.
type RootKey struct {
	Public   []byte `json:"public"`
	Hash     string `json:"hash"`
	Rotation uint64 `json:"rotation"`
}

// Confirmation says which sealing a node has opened, and with which of its root keys.
type Confirmation struct {
	Epoch uint64 `json:"epoch"`
	Root  string `json:"root"`
}

func rotationKey() kv.Key                { return kv.K("seal", "rotation") }
func owedKey() kv.Key                    { return kv.K("seal", "owed") }
func evictedKey(node string) kv.Key      { return kv.K("seal-evicted", node) }
func membersPrefix() kv.Key              { return kv.K("seal-member") }
func memberKey(node string) kv.Key       { return kv.K("seal-member", node) }
func confirmationKey(node string) kv.Key { return kv.K("seal-confirmation", node) }
func joinTokenKey(id string) kv.Key      { return kv.K("seal-join-token", id) }
func custodyKey() kv.Key                 { return kv.K("seal", "custody") }
func shareKey(node string) kv.Key        { return kv.K("seal-custody-share", node) }

// get decodes the record at key into value and gives false where there is none.
func get(tx *kv.Tx, key kv.Key, value any) (bool, error) {
	text, _, err := tx.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(text, value); err != nil {
		return false, fmt.Errorf("decode a record of the seal: %w", err)
	}
	return true, nil
}

func put(tx *kv.Tx, key kv.Key, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode a record of the seal: %w", err)
	}
	tx.Put(key, text)
	return nil
}

// Members gives the admitted nodes, in no particular order.
func Members(tx *kv.Tx) ([]Member, error) {
	var members []Member
	for item, err := range tx.Scan(membersPrefix()) {
		if err != nil {
			return nil, err
		}
		var member Member
		if err := json.Unmarshal(item.Value, &member); err != nil {
			return nil, fmt.Errorf("decode a member record: %w", err)
		}
		members = append(members, member)
	}
	return members, nil
}

// Fingerprint names the key.
func (r RootKey) Fingerprint() hsm.Fingerprint { return fingerprintOf(r.Public) }

// RootFingerprint names the member's root key.
func (m Member) RootFingerprint() string { return m.Root.Fingerprint().String() }

// NodeFingerprint names the member's HSM key, which its certificate is bound to.
func (m Member) NodeFingerprint() hsm.Fingerprint { return fingerprintOf(m.NodeKey) }

// has says whether a root key is recorded as the member's, in whatever part.
func (m Member) has(key RootKey) bool {
	for _, one := range []*RootKey{&m.Root, m.Next, m.Previous} {
		if one != nil && bytes.Equal(one.Public, key.Public) {
			return true
		}
	}
	return false
}
