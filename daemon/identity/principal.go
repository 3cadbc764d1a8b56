package identity

import (
	"errors"
	"fmt"
	"strings"
)

// ErrPrincipal says that a text or a URI names no principal.
var ErrPrincipal = errors.New("not a principal's canonical name")

// Kind is what sort of caller a principal is.
type Kind uint8

// The kinds.
const (
	Operator Kind = iota + 1
	Workload
	Device
	Node
)

// String names the kind as it stands in names and URIs.
func (k Kind) String() string {
	switch k {
	case Operator:
		return "operator"
	case Workload:
		return "workload"
	case Device:
		return "device"
	case Node:
		return "node"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of String.
func ParseKind(text string) (Kind, error) {
	for kind := Operator; kind <= Node; kind++ {
		if kind.String() == text {
			return kind, nil
		}
	}
	return 0, fmt.Errorf("%w: its kind must be operator, workload, device or node", ErrPrincipal)
}

// Principal is a caller's canonical name. Principals compare with ==.
type Principal struct {
	Kind            Kind
	Namespace, Name Name
}

// String gives "kind:namespace/name".
func (p Principal) String() string {
	return p.Kind.String() + ":" + p.Namespace.String() + "/" + p.Name.String()
}

// ParsePrincipal is the inverse of String.
func ParsePrincipal(text string) (Principal, error) {
	kindText, rest, ok := strings.Cut(text, ":")
	namespaceText, nameText, okToo := strings.Cut(rest, "/")
	if !ok || !okToo {
		return Principal{}, fmt.Errorf("%w: write it as kind:namespace/name", ErrPrincipal)
	}
	return parse(kindText, namespaceText, nameText)
}

func parse(kindText, namespaceText, nameText string) (Principal, error) {
	kind, err := ParseKind(kindText)
	if err != nil {
		return Principal{}, err
	}
	namespace, err := ParseName(namespaceText)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: its namespace: %w", ErrPrincipal, err)
	}
	name, err := ParseName(nameText)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: its name: %w", ErrPrincipal, err)
	}
	return Principal{Kind: kind, Namespace: namespace, Name: name}, nil
}

// MarshalText gives the canonical name.
func (p Principal) MarshalText() ([]byte, error) {
	if p == (Principal{}) {
		return nil, nil
	}
	return []byte(p.String()), nil
}

// UnmarshalText is ParsePrincipal, and takes the empty text for the zero value.
func (p *Principal) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Principal{}
		return nil
	}
	parsed, err := ParsePrincipal(string(text))
	*p = parsed
	return err
}
