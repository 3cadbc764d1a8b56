package credential

import (
	"errors"
	"fmt"
	"time"

	"warder/daemon/broker"
	"warder/daemon/identity"
	"warder/keystore"
)

// Kind is the kind of a credential's entry in the keystore.
const Kind = "credential"

// Limits.
const (
	MaxFields      = 16
	MaxDescription = 256
	MaxGrace       = 30 * 24 * time.Hour
)

// Errors of this package. [broker.ErrField] and the other errors of the broker and
// of the keystore pass through.
var (
	ErrNotFound = errors.New("no such credential")
	ErrExists   = errors.New("the credential exists already")
	ErrInvalid  = errors.New("credential is not valid")
	ErrBusy     = errors.New("the credential was changed at the same time")
)

// Handle names one credential, namespace and all. The zero Handle names none.
type Handle struct{ namespace, name identity.Name }

// At makes a handle from what the authoriser decided on.
func At(namespace, name identity.Name) Handle { return Handle{namespace, name} }

// Namespace is the credential's namespace.
func (h Handle) Namespace() identity.Name { return h.namespace }

// Name is the credential's name in its namespace.
func (h Handle) Name() identity.Name { return h.name }

// String is "namespace/name".
func (h Handle) String() string { return h.namespace.String() + "/" + h.name.String() }

func (h Handle) ref() (keystore.Ref, error) {
	if h.namespace.IsZero() || h.name.IsZero() {
		return keystore.Ref{}, fmt.Errorf("%w: the handle names none", ErrNotFound)
	}
	return keystore.Ref{Kind: Kind, Namespace: h.namespace.String(), Name: h.name.String()}, nil
}

// Values are a credential's fields as they were given: the caller wipes them.
type Values map[string]keystore.Secret

// Wipe overwrites every value.
func (v Values) Wipe() {
	for _, s := range v {
		s.Wipe()
	}
}

// Credential is what may be shown: never a value.
type Credential struct {
	Handle      Handle
	Profile     string
	Description string
	Versions    []Version
	Revision    uint64
}

// Active is the number of the active version, 0 where there is none.
func (c Credential) Active() uint32 {
	for _, v := range c.Versions {
		if v.State == keystore.Active {
			return v.Number
		}
	}
	return 0
}

// Version is one version of a credential, without its values.
type Version struct {
	Number  uint32
	State   keystore.State
	Created time.Time
	Retired time.Time // zero unless retired
	// Ends is when a retired version is destroyed; zero unless retired.
	Ends   time.Time
	Fields []string // the names of its fields, sorted
}

// entryInfo is what the entry keeps in the open, as JSON.
type entryInfo struct {
	Profile     string `json:"profile"`
	Description string `json:"description,omitempty"`
}

// versionInfo is what a version keeps in the open, as JSON.
type versionInfo struct {
	Fields []string `json:"fields"`
	// Grace is how long the version before this one outlives its retirement.
	Grace time.Duration `json:"grace,omitempty"`
}

// Spec is a new credential.
type Spec struct {
	Profile     string
	Description string
	Values      Values
}

// Signed is a signed request, and the version that signed it.
type Signed struct {
	Request broker.Signed
	Version uint32
}
