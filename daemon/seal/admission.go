package seal

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"warder/hsm"
	"warder/keystore/kv"
)

// joinPrefix is the first part of a join token: its form and version.
const joinPrefix = "wjt1"

// MaxJoinTTL bounds how long a join token may wait for its node.
const MaxJoinTTL = 24 * time.Hour

// ErrJoinRefused is the one answer to every join token that is unknown, used, expired or of another node or key.
var ErrJoinRefused = errors.New("the join token is not valid for this node and its HSM: it is unknown, used, expired, or made for another; ask an operator for a new one")

// ErrMemberExists says that a member of that name is admitted already.
var ErrMemberExists = errors.New("a node of that name is a member already: remove it first, or choose another name")

// ErrNoMember says that no member has that name.
var ErrNoMember = errors.New("no member has that name: see `warder operator status`")

// JoinToken admits one node once: the node of that name whose HSM holds the key of that fingerprint.
type JoinToken struct {
	Node        string          `json:"node"`
	Fingerprint hsm.Fingerprint `json:"fingerprint"`
	Hash        []byte          `json:"hash"` // SHA-256 of the secret half
	Expires     time.Time       `json:"expires"`
}

// JoinRequest is what a node shows to be admitted. Keys are DER SubjectPublicKeyInfo.
type JoinRequest struct {
	Token        string
	Node         string
	Address      string
	Endpoint     string
	CSR          []byte
	Root         RootKey
	NodeKey      []byte
	TransportKey []byte
	AuditKey     []byte
	Signature    []byte // of the node's HSM key over Transcript, ASN.1 DER
}

// Transcript is the SHA-256 digest that the joining node's HSM signs: a label, then every field but the signature in
// the order of warder.v1.JoinClusterRequest, each preceded by its length as a big-endian u32.
func (r JoinRequest) Transcript() []byte {
	hash := sha256.New()
	hash.Write([]byte("warder join v1"))
	fields := [][]byte{
		[]byte(r.Token), []byte(r.Node), []byte(r.Address), r.CSR, r.Root.Public, []byte(r.Root.Hash),
		r.NodeKey, r.TransportKey, r.AuditKey, []byte(r.Endpoint),
	}
	for _, field := range fields {
		hash.Write(binary.BigEndian.AppendUint32(nil, uint32(len(field))))
		hash.Write(field)
	}
	return hash.Sum(nil)
}

// CreateJoinToken records a single-use token for one node and one HSM key, and gives its text.
func (k *Keeper) CreateJoinToken(ctx context.Context, node string, fingerprint hsm.Fingerprint, ttl time.Duration) (string, time.Time, error) {
	if ttl <= 0 || ttl > MaxJoinTTL {
		return "", time.Time{}, fmt.Errorf("a join token may live for at most %s, not %s", MaxJoinTTL, ttl)
	}
	id, secret := rand.Text(), make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", time.Time{}, err
	}
	hash := sha256.Sum256(secret)
	token := JoinToken{Node: node, Fingerprint: fingerprint, Hash: hash[:], Expires: k.cfg.Clock().Add(ttl).UTC()}
	err := k.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		if err := mayAdmit(tx, node, fingerprint); err != nil {
			return err
		}
		return put(tx, joinTokenKey(id), token)
	})
	text := strings.Join([]string{joinPrefix, id, base64.RawURLEncoding.EncodeToString(secret)}, ".")
	return text, token.Expires, err
}

// mayAdmit says ErrMemberExists where a member has that name, unless it is one that never came: its admission's answer
// was lost, or the node did not live to remember it. The same HSM is then admitted again.
func mayAdmit(tx *kv.Tx, node string, fingerprint hsm.Fingerprint) error {
	var member Member
	known, err := get(tx, memberKey(node), &member)
	if err != nil || !known {
		return err
	}
	var said Confirmation
	opened, err := get(tx, confirmationKey(node), &said)
	if err == nil && (opened || member.NodeFingerprint() != fingerprint) {
		err = ErrMemberExists
	}
	return err
}

// Admit checks a join request, uses its token up, records the member and seals the keyring to it as well, all in one
// batch: of any number of parallel requests with one token, one succeeds.
func (k *Keeper) Admit(ctx context.Context, request JoinRequest) (Member, error) {
	id, secret, err := parseJoinToken(request.Token)
	if err != nil {
		return Member{}, err
	}
	if err := checkJoinKeys(request); err != nil {
		return Member{}, err
	}
	var member Member
	err = k.onNewest(ctx, func(tx *kv.Tx) error {
		if err := k.redeem(tx, id, secret, request); err != nil {
			return err
		}
		if err := mayAdmit(tx, request.Node, request.Fingerprint()); err != nil {
			return err
		}
		member = Member{
			Node: request.Node, Address: request.Address, Endpoint: request.Endpoint, NodeKey: request.NodeKey,
			TransportKey: request.TransportKey, AuditKey: request.AuditKey, Root: request.Root, Admitted: k.cfg.Clock().UTC(),
		}
		return k.addMember(tx, member)
	})
	return member, err
}

// redeem uses the token up, or says ErrJoinRefused, which is the same for every cause.
func (k *Keeper) redeem(tx *kv.Tx, id string, secret []byte, request JoinRequest) error {
	var token JoinToken
	found, err := get(tx, joinTokenKey(id), &token)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(secret)
	right := subtle.ConstantTimeCompare(hash[:], token.Hash) == 1
	if !found || !right || token.Node != request.Node || k.cfg.Clock().After(token.Expires) ||
		token.Fingerprint != fingerprintOf(request.NodeKey) {
		return ErrJoinRefused
	}
	tx.Delete(joinTokenKey(id))
	return nil
}

func (k *Keeper) addMember(tx *kv.Tx, member Member) error {
	var rotation Rotation
	if _, err := get(tx, rotationKey(), &rotation); err != nil {
		return err
	}
	if rotation.Running() {
		return ErrRotating
	}
	ring, err := k.cfg.Holder.Keyring()
	if err != nil {
		return err
	}
	forget(tx, member.Node) // whatever is left of a node of that name
	if err := put(tx, memberKey(member.Node), member); err != nil {
		return err
	}
	_, err = k.sealAnew(tx, ring, currentRoots)
	return err
}

func parseJoinToken(text string) (id string, secret []byte, err error) {
	parts := strings.Split(text, ".")
	if len(text) > 256 || len(parts) != 3 || parts[0] != joinPrefix || len(parts[1]) != len(rand.Text()) {
		return "", nil, ErrJoinRefused
	}
	secret, err = base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != 32 || strings.ContainsAny(parts[2], "\r\n") { // which the decoder passes over
		return "", nil, ErrJoinRefused
	}
	return parts[1], secret, nil
}

// checkJoinKeys verifies that the node's HSM key signed the request, and that every key in it is of a kind that is taken.
func checkJoinKeys(request JoinRequest) error {
	parsed, err := x509.ParsePKIXPublicKey(request.NodeKey)
	if err != nil {
		return ErrJoinRefused
	}
	if !signedByNode(parsed, request.Transcript(), request.Signature) {
		return ErrJoinRefused
	}
	if _, err := newRecipient(request.Root); err != nil {
		return err
	}
	if hash := hsm.Hash(request.Root.Hash); hash != hsm.SHA1 && hash != hsm.SHA256 {
		return fmt.Errorf("the root key's OAEP hash %q is not one of %s and %s", request.Root.Hash, hsm.SHA1, hsm.SHA256)
	}
	if len(request.TransportKey) > 0 {
		if _, err := newRecipient(RootKey{Public: request.TransportKey, Hash: string(hsm.SHA256)}); err != nil {
			return fmt.Errorf("the transport key: %w", err)
		}
	}
	return nil
}

// Member gives an admitted node's record; known is false where there is none.
func (k *Keeper) Member(ctx context.Context, node string) (member Member, known bool, err error) {
	err = k.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		known, err = get(tx, memberKey(node), &member)
		return err
	})
	return member, known, err
}

// Fingerprint names the node's HSM key.
func (r JoinRequest) Fingerprint() hsm.Fingerprint { return fingerprintOf(r.NodeKey) }

// LookJoinToken says which node a token would admit, without using it up.
func (k *Keeper) LookJoinToken(ctx context.Context, text string) (string, error) {
	id, secret, err := parseJoinToken(text)
	if err != nil {
		return "", err
	}
	var token JoinToken
	err = k.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		_, err := get(tx, joinTokenKey(id), &token)
		return err
	})
	hash := sha256.Sum256(secret)
	if err == nil && (subtle.ConstantTimeCompare(hash[:], token.Hash) != 1 || k.cfg.Clock().After(token.Expires)) {
		err = ErrJoinRefused
	}
	return token.Node, err
}
