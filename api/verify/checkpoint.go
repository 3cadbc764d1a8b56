package verify

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// MaxCheckpoint bounds a signed checkpoint, in bytes.
const MaxCheckpoint = 4 << 10

// ErrBadSignature says that a checkpoint is not signed by the node's audit key, or is no checkpoint at all.
var ErrBadSignature = errors.New("checkpoint signature is not valid")

// Origin names one log: a node's name and the random id that the log got when it was created. A node that had to
// start a new log has a new origin, so that the old one is not forgotten silently.
type Origin struct {
	Node string
	Log  [8]byte
}

const originPrefix = "warder/audit/"

// String gives "warder/audit/<node>/<16 hexadecimal digits>", the first line of a checkpoint.
func (o Origin) String() string { return originPrefix + o.Node + "/" + hex.EncodeToString(o.Log[:]) }

// ParseOrigin is the inverse of String.
func ParseOrigin(s string) (Origin, error) {
	rest, found := strings.CutPrefix(s, originPrefix)
	node, id, cut := strings.Cut(rest, "/")
	raw, err := hex.DecodeString(id)
	origin := Origin{Node: node}
	if !found || !cut || err != nil || len(raw) != len(origin.Log) || fieldNode.check(node) != nil {
		return Origin{}, errors.New("not the origin of an audit log: want warder/audit/<node>/<16 hexadecimal digits>")
	}
	copy(origin.Log[:], raw)
	if origin.String() != s {
		return Origin{}, errors.New("not the origin of an audit log: upper-case digits")
	}
	return origin, nil
}

// KeyName is the name that a node's audit key signs under.
func KeyName(node string) string { return originPrefix + node }

// VerifierKey gives the text form (note package) of a node's public audit key, as it is handed to people and tools.
func VerifierKey(node string, key ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(KeyName(node), key)
}

// Checkpoint is a signed promise: the log at Origin had Size entries with this Root at Time.
type Checkpoint struct {
	Origin Origin
	Size   uint64
	Root   Hash
	Time   time.Time // UTC, to the second
	Note   []byte    // the signed note that says so (C2SP signed-note, tlog-checkpoint)
}

const timeLine = "time "

// text is the note's body: origin, size, root and one extension line (C2SP tlog-checkpoint).
func (c *Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n%s%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]),
		timeLine, c.Time.UTC().Format(time.RFC3339))
}

// SignCheckpoint fills c.Note. The key is an Ed25519 key; Time is cut to the second.
func SignCheckpoint(c *Checkpoint, key crypto.Signer) error {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return errors.New("audit key is not an Ed25519 key")
	}
	vkey, err := VerifierKey(c.Origin.Node, public)
	if err != nil {
		return fmt.Errorf("audit key: %w", err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("audit key: %w", err)
	}
	c.Time = c.Time.UTC().Truncate(time.Second)
	signed, err := note.Sign(&note.Note{Text: c.text()}, signer{verifier, key})
	if err != nil {
		return fmt.Errorf("signing the audit checkpoint: %w", err)
	}
	c.Note = signed
	return nil
}

// signer lets any crypto.Signer with an Ed25519 key sign notes.
type signer struct {
	note.Verifier
	key crypto.Signer
}

func (s signer) Sign(msg []byte) ([]byte, error) { return s.key.Sign(rand.Reader, msg, crypto.Hash(0)) }

// OpenCheckpoint reads a signed checkpoint and verifies it under one of the node's keys (text form). It returns
// what the signed bytes say, or [ErrBadSignature].
func OpenCheckpoint(signed []byte, verifierKeys ...string) (Checkpoint, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: longer than %d bytes", ErrBadSignature, MaxCheckpoint)
	}
	var known []note.Verifier
	for _, key := range verifierKeys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return Checkpoint{}, fmt.Errorf("audit verifier key: %w", err)
		}
		known = append(known, verifier)
	}
	opened, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	for _, sig := range opened.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return Checkpoint{}, fmt.Errorf("%w: its base64 is not canonical (RFC 4648 3.5)", ErrBadSignature)
		}
	}
	c, err := parseCheckpoint(opened.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	if name := KeyName(c.Origin.Node); opened.Sigs[0].Name != name {
		return Checkpoint{}, fmt.Errorf("%w: signed by the key of another node", ErrBadSignature)
	}
	c.Note = append([]byte(nil), signed...)
	return c, nil
}

func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[3], timeLine) {
		return Checkpoint{}, errors.New("a checkpoint has four lines: origin, size, root, time")
	}
	origin, err := ParseOrigin(lines[0])
	if err != nil {
		return Checkpoint{}, err
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return Checkpoint{}, errors.New("a checkpoint's second line is its size")
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(Hash{}) {
		return Checkpoint{}, errors.New("a checkpoint's third line is its root")
	}
	at, err := time.Parse(time.RFC3339, strings.TrimPrefix(lines[3], timeLine))
	if err != nil {
		return Checkpoint{}, errors.New("a checkpoint's fourth line is its time")
	}
	c := Checkpoint{Origin: origin, Size: size, Root: Hash(root), Time: at.UTC()}
	if c.text() != text {
		return Checkpoint{}, errors.New("a checkpoint that is not in canonical form")
	}
	return c, nil
}
