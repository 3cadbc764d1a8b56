package keystore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[secret]"

// Secret holds material that is never printed, logged or encoded. Reveal is the one way to its bytes. Copies share
// them. The zero Secret holds nothing.
type Secret struct {
	// reveal is a function because that is the one thing that fmt does not look into: it calls no method of a value in
	// an unexported field, and prints what is there, through pointers too.
	reveal func() []byte
}

// NewSecret takes the bytes over: the caller keeps no copy.
func NewSecret(material []byte) Secret { return Secret{func() []byte { return material }} }

// Reveal gives the bytes, which stay the secret's own.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Len is the material's size in bytes.
func (s Secret) Len() int { return len(s.Reveal()) }

// Wipe overwrites the bytes with zeros, for every copy of the Secret.
func (s Secret) Wipe() { clear(s.Reveal()) }

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
