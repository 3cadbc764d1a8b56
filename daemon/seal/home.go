package seal

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"warder/hsm"
)

// homeFile is the name of the home's file below the data directory.
const homeFile = "node.json"

// maxHome bounds the file before it is parsed, in bytes.
const maxHome = 1 << 20

// pinContext separates a pin from everything else that the node's HSM key signs.
const pinContext = "warder pin v1\x00"

// ErrNoHome says that the node belongs to no cluster yet.
var ErrNoHome = errors.New("the node belongs to no cluster yet: run `warder operator init` or `warder operator join`")

// ErrForeignKeyring says that the sealed keyring is not the one that this node was admitted to.
var ErrForeignKeyring = errors.New("the sealed keyring is not the one this node was admitted to")

// Home is what a member keeps in a file of its own, outside the replicated state: who it is, how the other members
// know it, and the keyring that it was admitted to. It is written once, at init or join, and when certificates renew.
type Home struct {
	ClusterID   string `json:"cluster_id"`
	ClusterName string `json:"cluster_name"`
	TrustDomain string `json:"trust_domain"`
	Node        string `json:"node"`
	// Commitment is the keyring's lineage commitment; Pin is the signature of the node's HSM key over it, so that a
	// keyring made by somebody with the disk alone (OAEP is public) is refused.
	Commitment []byte `json:"commitment"`
	Pin        []byte `json:"pin"`
	Roots      []byte `json:"roots_pem"`
	// Peers are the other members' ids as this node last knew them: a node that finds its storage damaged rebuilds it
	// from them, and stops where there are none.
	Peers []string `json:"peers,omitempty"`
	// Evicted tells when nodes were evicted, as this node last knew it: while it is sealed it has no other way to refuse them.
	Evicted map[string]time.Time `json:"evicted,omitempty"`
	// Certificate and PrivateKey are the node's TLS identity, in PEM; AuditSeed is the Ed25519 seed (RFC 8032) that
	// signs the node's audit checkpoints.
	Certificate []byte `json:"certificate_pem"`
	PrivateKey  []byte `json:"private_key_pem"`
	AuditSeed   []byte `json:"audit_seed"`
}

// LoadHome reads the home below the data directory, or says ErrNoHome.
func LoadHome(dir string) (Home, error) {
	path := filepath.Join(dir, homeFile)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return Home{}, ErrNoHome
	}
	if err != nil {
		return Home{}, fmt.Errorf("read the node's identity: %w", err)
	}
	if info.Size() > maxHome || info.Mode().Perm()&0o077 != 0 {
		return Home{}, fmt.Errorf("%s: want at most %d bytes and mode 0600, found %d bytes and mode %04o",
			path, maxHome, info.Size(), info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Home{}, fmt.Errorf("read the node's identity: %w", err)
	}
	home, err := decodeHome(text)
	if err != nil {
		return Home{}, fmt.Errorf("%s is damaged: %w; restore it from a copy, or remove the node and join it anew", path, err)
	}
	return home, nil
}

// homeForm is the file: the home, and the SHA-256 of its bytes, so that a changed bit anywhere in it is named.
type homeForm struct {
	Home   json.RawMessage `json:"home"`
	SHA256 []byte          `json:"sha256"`
}

var errHomeChanged = errors.New("its bytes are not those that were written")

func decodeHome(text []byte) (Home, error) {
	var form homeForm
	if err := json.Unmarshal(text, &form); err != nil {
		return Home{}, errHomeChanged // the parser's words would repeat the file's, which holds private keys
	}
	sum := sha256.Sum256(form.Home)
	if subtle.ConstantTimeCompare(sum[:], form.SHA256) != 1 {
		return Home{}, errHomeChanged
	}
	var home Home
	if err := json.Unmarshal(form.Home, &home); err != nil {
		return Home{}, errHomeChanged
	}
	return home, nil
}

func (h Home) encode() ([]byte, error) {
	home, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(home)
	return json.Marshal(homeForm{Home: home, SHA256: sum[:]})
}

// Save writes the home so that a crash leaves the old file or the new one, and returns when it is durable.
func (h Home) Save(dir string) error {
	text, err := h.encode()
	if err != nil {
		return fmt.Errorf("encode the node's identity: %w", err)
	}
	path := filepath.Join(dir, homeFile)
	if err := writeDurably(path, text); err != nil {
		return fmt.Errorf("write the node's identity: %w", err)
	}
	return nil
}

func writeDurably(path string, text []byte) error {
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = file.Chmod(0o600) // one that lay there keeps its mode
	if err == nil {
		_, err = file.Write(text)
	}
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Close(fd))
}

// SignPin binds this node to a keyring: the signature is made by the node's key inside the HSM.
func (h *Home) SignPin(ctx context.Context, key hsm.Signer) error {
	digest := h.pinDigest()
	pin, err := key.Sign(ctx, digest[:])
	if err != nil {
		return fmt.Errorf("pin the keyring with the node's HSM key: %w", err)
	}
	h.Pin = pin
	return nil
}

// CheckPin verifies that the HSM's own key signed the commitment in the home, and that it is the given keyring's.
func (h Home) CheckPin(key hsm.Signer, commitment [32]byte) error {
	digest := h.pinDigest()
	if !signedByNode(key.Public(), digest[:], h.Pin) {
		return fmt.Errorf("%w: the pin in %s was not signed by this HSM's node key", ErrForeignKeyring, homeFile)
	}
	if subtle.ConstantTimeCompare(h.Commitment, commitment[:]) != 1 {
		return fmt.Errorf("%w: its lineage differs", ErrForeignKeyring)
	}
	return nil
}

// signedByNode verifies what [hsm.Token.NodeKey] signs: a SHA-256 digest, by ECDSA on P-256, in ASN.1 DER.
func signedByNode(key crypto.PublicKey, digest, signature []byte) bool {
	public, ok := key.(*ecdsa.PublicKey)
	return ok && public.Curve == elliptic.P256() && ecdsa.VerifyASN1(public, digest, signature)
}

func (h Home) pinDigest() [32]byte {
	hash := sha256.New()
	hash.Write([]byte(pinContext))
	hash.Write([]byte(h.ClusterID))
	hash.Write([]byte{0})
	hash.Write([]byte(h.Node))
	hash.Write([]byte{0})
	hash.Write(h.Commitment)
	return [32]byte(hash.Sum(nil))
}

// AuditPublicKey is the Ed25519 key that verifies this node's audit checkpoints, 32 bytes.
func (h Home) AuditPublicKey() []byte {
	return ed25519.NewKeyFromSeed(h.AuditSeed).Public().(ed25519.PublicKey)
}
