package identity

import (
	"errors"
	"fmt"
)

// MaxName bounds a name, in bytes (as a DNS label, RFC 1035 section 2.3.4).
const MaxName = 63

// ErrName says that a text is no name. The text itself is not repeated: it may be anything.
var ErrName = errors.New("a name has 1 to 63 characters of a-z and 0-9, with single dashes inside")

// Name is the name of a principal, a namespace or an object: lower-case ASCII letters and digits, single dashes
// between them. The zero value is no name. Names compare with ==.
type Name struct{ text string }

// ParseName takes a text that is a name as it stands, or gives ErrName.
func ParseName(text string) (Name, error) {
	if len(text) == 0 || len(text) > MaxName {
		return Name{}, ErrName
	}
	dash := true // the character before: a name neither begins with a dash nor has two in a row
	for i := range len(text) {
		c := text[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (c != '-' || dash) {
			return Name{}, ErrName
		}
		dash = c == '-'
	}
	if dash {
		return Name{}, ErrName
	}
	return Name{text}, nil
}

// MustName is ParseName for names written in the source; it panics where the text is no name.
func MustName(text string) Name {
	name, err := ParseName(text)
	if err != nil {
		panic(fmt.Sprintf("identity: %q: %v", text, err))
	}
	return name
}

// String gives the name's text, empty for the zero value.
func (n Name) String() string { return n.text }

// IsZero says whether this is no name.
func (n Name) IsZero() bool { return n.text == "" }

// MarshalText gives the name's text.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.text), nil }

// UnmarshalText is ParseName, and takes the empty text for the zero value.
func (n *Name) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*n = Name{}
		return nil
	}
	name, err := ParseName(string(text))
	*n = name
	return err
}
