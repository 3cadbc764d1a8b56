package keystore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[secret]"

// Secret holds material that is never printed, logged or encoded. Reveal is the one way to its bytes.
type Secret struct{ material []byte }

// NewSecret takes the bytes over: the caller keeps no copy.
func NewSecret(material []byte) Secret { return Secret{material} }

// Reveal gives the bytes, which stay the secret's own.
func (s Secret) Reveal() []byte { return s.material }

// Len is the material's size in bytes.
func (s Secret) Len() int { return len(s.material) }

// Wipe overwrites the bytes with zeros.
func (s Secret) Wipe() { clear(s.material) }

// Format prints no secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue prints no secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// errEncoded says that something tried to encode a secret as it would any value.
var errEncoded = errors.New("a secret is never encoded; reveal it where that is meant")

// MarshalJSON refuses.
func (s Secret) MarshalJSON() ([]byte, error) { return nil, errEncoded }

// MarshalText refuses.
func (s Secret) MarshalText() ([]byte, error) { return nil, errEncoded }

// MarshalBinary refuses, and with it encoding/gob.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errEncoded }
