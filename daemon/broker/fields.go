package broker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxField bounds one field of a credential, in bytes.
const MaxField = 16 << 10

// FieldType is how a field of a credential is written.
type FieldType string

// The field types. A pem or seed field holds a private key of the field's algorithm.
const (
	FieldUTF8   FieldType = "utf8"
	FieldB64    FieldType = "b64"
	FieldHex    FieldType = "hex"
	FieldBase58 FieldType = "base58"
	FieldPEM    FieldType = "pem"
	FieldSeed   FieldType = "seed" // Ed25519: 32 bytes, or 64 with the public key, in base64
)

// Fields are a credential's fields, decoded, its keys parsed: made once for each
// version, used for every signature. They print nothing.
type Fields struct {
	profile string
	values  map[string][]byte
	keys    map[string]crypto.Signer
}

// String and the methods below keep the fields out of logs, errors and JSON.
func (f *Fields) String() string { return "[credential fields]" }

// GoString is String.
func (f *Fields) GoString() string { return f.String() }

// LogValue is String.
func (f *Fields) LogValue() slog.Value { return slog.StringValue(f.String()) }

// MarshalJSON refuses.
func (f *Fields) MarshalJSON() ([]byte, error) {
	return nil, fmt.Errorf("credential fields are not to be written")
}

// Names are the names of the fields present, sorted.
func (f *Fields) Names() []string {
	names := slices.Collect(maps.Keys(f.values))
	return slices.Sorted(slices.Values(slices.AppendSeq(names, maps.Keys(f.keys))))
}

func (f *Fields) has(name string) bool {
	_, value := f.values[name]
	_, key := f.keys[name]
	return value || key
}

// Wipe overwrites the decoded values; private keys are left to the collector.
func (f *Fields) Wipe() {
	for _, v := range f.values {
		clear(v)
	}
}

// Fields checks a credential's fields against the profile and parses them. An error
// (wrapping [ErrField]) names the field and what was expected, never its value.
func (p *Profile) Fields(given map[string][]byte) (*Fields, error) {
	f := &Fields{profile: p.Name, values: map[string][]byte{}, keys: map[string]crypto.Signer{}}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		spec, known := p.field(name)
		if !known {
			return nil, fmt.Errorf("%w: %s has no field %q, it has %s", ErrField, p.Name, name, strings.Join(p.fieldNames(), ", "))
		}
		if err := f.parse(name, spec, given[name]); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrField, name, err)
		}
	}
	if err := p.complete(f); err != nil {
		return nil, err
	}
	return f, nil
}

// complete checks that every needed field is there, and one of each set of alternatives.
func (p *Profile) complete(f *Fields) error {
	for _, name := range p.fieldNames() {
		if spec := p.fields[name]; !spec.Optional && !p.alternative(name) && !f.has(name) {
			return fmt.Errorf("%w: %s is missing", ErrField, name)
		}
	}
	for _, set := range p.oneOf {
		n := 0
		for _, name := range set {
			if f.has(name) {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%w: give exactly one of %s", ErrField, strings.Join(set, ", "))
		}
	}
	if len(f.values)+len(f.keys) == 0 {
		return fmt.Errorf("%w: a credential needs at least one field", ErrField)
	}
	return nil
}

func (f *Fields) parse(name string, spec fieldSpec, value []byte) error {
	if len(value) == 0 || len(value) > MaxField {
		return fmt.Errorf("it is empty or longer than %d bytes", MaxField)
	}
	if spec.Type == FieldPEM || spec.Type == FieldSeed {
		key, err := parseKey(spec, value)
		if err != nil {
			return err
		}
		f.keys[name] = key
		return nil
	}
	decoded, err := decodeField(spec.Type, value)
	if err != nil {
		return err
	}
	f.values[name] = decoded
	return nil
}

func decodeField(t FieldType, value []byte) ([]byte, error) {
	text := string(value)
	switch t {
	case FieldB64:
		if b, err := base64.StdEncoding.Strict().DecodeString(text); err == nil && len(b) > 0 {
			return b, nil
		}
		return nil, fmt.Errorf("it is not standard base64 with padding")
	case FieldHex:
		if b, err := hex.DecodeString(text); err == nil {
			return b, nil
		}
		return nil, fmt.Errorf("it is not hexadecimal")
	case FieldBase58:
		if b, ok := decodeBase58(text); ok {
			return b, nil
		}
		return nil, fmt.Errorf("it is not base58")
	}
	if !utf8.ValidString(text) || !printable(text) || strings.TrimSpace(text) != text {
		return nil, fmt.Errorf("it is not plain text on one line, without space around it")
	}
	return slices.Clone(value), nil
}

func parseKey(spec fieldSpec, value []byte) (crypto.Signer, error) {
	if spec.Type == FieldSeed {
		return parseSeed(value)
	}
	block, rest := pem.Decode(value)
	if block == nil || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("it is not one PEM block, such as -----BEGIN PRIVATE KEY-----")
	}
	key, err := parseDER(block)
	if err != nil {
		return nil, fmt.Errorf("its PEM block is not a private key that can be read; an encrypted key must be decrypted first")
	}
	return key, checkKey(spec.Alg, key)
}

func parseDER(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, fmt.Errorf("no private key")
	}
	return signer, nil
}

// checkKey holds a key to the algorithm of its field. RSA keys are of 2048 to 4096
// bits: less is broken, more is a way to burn CPU.
func checkKey(alg keyAlg, key crypto.Signer) error {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		if alg == algEd25519 {
			return nil
		}
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); alg == algRSA && (bits < 2048 || bits > 4096) {
			return fmt.Errorf("it is an RSA key of %d bits, 2048 to 4096 are taken", bits)
		}
		if alg == algRSA {
			return nil
		}
	case *ecdsa.PrivateKey:
		if alg == algP256 && k.Curve == elliptic.P256() {
			return nil
		}
	}
	return fmt.Errorf("it is a key of another algorithm than %s", alg)
}

func parseSeed(value []byte) (crypto.Signer, error) {
	b, err := base64.StdEncoding.DecodeString(string(value))
	if err != nil || len(b) != ed25519.SeedSize && len(b) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("it is not an Ed25519 seed: 32 or 64 bytes in base64")
	}
	key := ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])
	if len(b) == ed25519.PrivateKeySize && !key.Equal(ed25519.PrivateKey(b)) {
		return nil, fmt.Errorf("its public half does not belong to its seed")
	}
	return key, nil
}

const base58Alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// decodeBase58 decodes Bitcoin's base58 of at most 128 characters.
func decodeBase58(text string) ([]byte, bool) {
	if text == "" || len(text) > 128 {
		return nil, false
	}
	out := make([]byte, 0, len(text)) // little endian
	for i := range len(text) {
		carry := strings.IndexByte(base58Alphabet, text[i])
		if carry < 0 {
			return nil, false
		}
		for j := range out {
			carry += int(out[j]) * 58
			out[j], carry = byte(carry), carry>>8
		}
		for ; carry > 0; carry >>= 8 {
			out = append(out, byte(carry))
		}
	}
	for i := 0; i < len(text) && text[i] == '1'; i++ {
		out = append(out, 0)
	}
	slices.Reverse(out)
	return out, true
}
