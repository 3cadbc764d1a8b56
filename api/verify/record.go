package verify

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Decision is what was decided about a request.
type Decision uint8

// The decisions. Zero is no decision and cannot be recorded.
const (
	Allow Decision = 1
	Deny  Decision = 2
)

// String gives "allow" or "deny".
func (d Decision) String() string {
	switch d {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	}
	return fmt.Sprintf("decision(%d)", uint8(d))
}

// MarshalText gives the same words as String.
func (d Decision) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads "allow" or "deny".
func (d *Decision) UnmarshalText(text []byte) error {
	switch string(text) {
	case "allow":
		*d = Allow
	case "deny":
		*d = Deny
	default:
		return errors.New("a decision is allow or deny")
	}
	return nil
}

// CertificateHash is the SHA-256 of the DER of the certificate that the caller presented (RFC 8705 3.1,
// x5t#S256); all zero when there was none.
type CertificateHash [32]byte

// MarshalText gives lower-case hexadecimal, and nothing for the zero hash.
func (h CertificateHash) MarshalText() ([]byte, error) {
	if h == (CertificateHash{}) {
		return nil, nil
	}
	return hex.AppendEncode(nil, h[:]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (h *CertificateHash) UnmarshalText(text []byte) error {
	*h = CertificateHash{}
	if len(text) == 0 {
		return nil
	}
	if len(text) != hex.EncodedLen(len(h)) {
		return errors.New("a certificate hash has 64 hexadecimal digits")
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// Resource is what a request was about.
type Resource struct {
	Type      string `json:"type,omitempty"`      // as the policy names it, e.g. "credential"; ≤ 64 bytes of [A-Za-z0-9._-]
	Namespace string `json:"namespace,omitempty"` // ≤ 63 bytes of [a-z0-9-]
	Name      string `json:"name,omitempty"`      // ≤ 64 bytes of [A-Za-z0-9._-]
}

// Record is one decision. Its fields are an allow-list: identifiers, hashes, numbers and the typed inputs of the
// policy; there is none for a payload, a header, a body, a result or a message. Each string has a length and an
// alphabet of its own, checked on encoding and on decoding; [ErrBadRecord] names the field, never its value.
type Record struct {
	Time           time.Time       `json:"time"`                  // UTC, to the nanosecond, 1970 to 2262
	RequestID      string          `json:"request_id"`            // 1..64 bytes of [A-Za-z0-9_-]
	Node           string          `json:"node"`                  // the node that decided: 1..63 bytes of [a-z0-9-]
	Principal      string          `json:"principal,omitempty"`   // "kind:namespace/name", empty when the caller stayed unknown; ≤ 160 bytes of [a-z0-9:/-]
	Authn          string          `json:"authn,omitempty"`       // how the caller proved it: "mtls", "token", "unix"; ≤ 32 bytes of [a-z0-9-]
	Certificate    CertificateHash `json:"certificate,omitempty"` // of the presented certificate
	TokenID        string          `json:"token_id,omitempty"`    // the token's jti, ≤ 64 bytes of [A-Za-z0-9_-]
	Method         string          `json:"method"`                // the RPC, "warder.v1.CredentialService/Sign": 1..128 bytes of [A-Za-z0-9._/:-]
	Action         string          `json:"action,omitempty"`      // "credential.sign"; ≤ 64 bytes of [a-z0-9._-]
	Resource       Resource        `json:"resource,omitzero"`
	Decision       Decision        `json:"decision"`
	Reason         string          `json:"reason,omitempty"`          // stable code, required for Deny: ≤ 64 bytes of [A-Za-z0-9._-]
	Policies       []string        `json:"policies,omitempty"`        // those that decided, ascending and distinct: ≤ 32 of 1..200 bytes of [A-Za-z0-9._/:#-]
	PolicyRevision uint64          `json:"policy_revision,omitempty"` // of the policy set that was asked
	Inputs         []Input         `json:"inputs,omitempty"`          // the context that the policy saw, names ascending and distinct: ≤ 32
	Remote         netip.AddrPort  `json:"remote,omitzero"`           // the peer; zero on the unix socket
}

// Kind is the type of an input's value.
type Kind uint8

// The kinds of input.
const (
	Text   Kind = 1 // ≤ 128 bytes of printable ASCII
	Number Kind = 2 // int64
	Flag   Kind = 3 // bool
)

// String gives the kind's name.
func (k Kind) String() string {
	switch k {
	case Text:
		return "text"
	case Number:
		return "number"
	case Flag:
		return "flag"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText gives the same words as String.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads "text", "number" or "flag".
func (k *Kind) UnmarshalText(text []byte) error {
	for _, kind := range []Kind{Text, Number, Flag} {
		if string(text) == kind.String() {
			*k = kind
			return nil
		}
	}
	return errors.New("an input's kind is text, number or flag")
}

// Input is one typed value of the context that a policy decided on.
type Input struct {
	Name   string `json:"name"` // 1..64 bytes of [a-z0-9_.]
	Kind   Kind   `json:"kind"`
	Text   string `json:"text,omitempty"`   // when Kind is Text
	Number int64  `json:"number,omitempty"` // when Kind is Number
	Flag   bool   `json:"flag,omitempty"`   // when Kind is Flag
}

// Inputs turns a policy's context (string, int64 and bool values) into a record's sorted inputs.
// A value of another type is [ErrBadRecord].
func Inputs(context map[string]any) ([]Input, error) {
	inputs := make([]Input, 0, len(context))
	for name, value := range context {
		switch v := value.(type) {
		case string:
			inputs = append(inputs, Input{Name: name, Kind: Text, Text: v})
		case int64:
			inputs = append(inputs, Input{Name: name, Kind: Number, Number: v})
		case bool:
			inputs = append(inputs, Input{Name: name, Kind: Flag, Flag: v})
		default:
			return nil, fmt.Errorf("%w: an input has type %T: use string, int64 or bool", ErrBadRecord, value)
		}
	}
	slices.SortFunc(inputs, func(a, b Input) int { return strings.Compare(a.Name, b.Name) })
	return inputs, nil
}

// ErrBadRecord says that a record, or bytes that should be one, breaks the schema. The message names the field
// and the rule, never the value.
var ErrBadRecord = errors.New("audit record breaks the schema")
