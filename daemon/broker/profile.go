package broker

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Status says how far a profile goes.
type Status string

const (
	// Complete: signing is proven by vectors, and the endpoints cover the broker's
	// REST interface for trading.
	Complete Status = "complete"
	// Signing: signing is proven by vectors; the endpoints are a small part, and all
	// others are refused.
	Signing Status = "signing"
	// Generic: no broker's; nothing can be signed.
	Generic Status = "generic"
)

type nonceKind string

const (
	nonceTime      nonceKind = "ts"
	nonceUUID      nonceKind = "uuid"
	nonceRand      nonceKind = "rand"
	nonceMonotonic nonceKind = "monotonic"
)

type keyAlg string

const (
	algEd25519 keyAlg = "ed25519"
	algRSA     keyAlg = "rsa"
	algP256    keyAlg = "p256"
)

type fieldSpec struct {
	Type     FieldType
	Alg      keyAlg // of pem and seed
	Optional bool
}

func (f fieldSpec) kind() kind {
	switch f.Type {
	case FieldUTF8:
		return kindText
	case FieldPEM, FieldSeed:
		return map[keyAlg]kind{algEd25519: kindEd25519, algRSA: kindRSA, algP256: kindP256}[f.Alg]
	}
	return kindBytes
}

// Profile is a broker, as data: immutable and safe for concurrent use.
type Profile struct {
	Name   string
	Title  string
	Status Status

	hosts  []string
	fields map[string]fieldSpec
	oneOf  [][]string
	open   bool
	clock  struct {
		Unit   string
		Window time.Duration
	}
	nonce     nonceKind
	call      string
	schemes   []scheme
	endpoints []endpoint
	redact    []string
	vectors   map[string]map[string]string
}

// Hosts are the hosts a request may go to.
func (p *Profile) Hosts() []string { return slices.Clone(p.hosts) }

// Redact names the fields of answers that must not be passed on, as the broker writes them.
func (p *Profile) Redact() []string { return slices.Clone(p.redact) }

// FieldNames are the names of the credential's fields, sorted; none for a profile
// that takes any.
func (p *Profile) FieldNames() []string { return p.fieldNames() }

func (p *Profile) fieldNames() []string { return slices.Sorted(maps.Keys(p.fields)) }

func (p *Profile) field(name string) (fieldSpec, bool) {
	if p.open && fieldName.MatchString(name) {
		return fieldSpec{Type: FieldUTF8, Optional: true}, true
	}
	spec, ok := p.fields[name]
	return spec, ok
}

// alternative says that a field is one of a set of which exactly one is given.
func (p *Profile) alternative(name string) bool {
	return slices.ContainsFunc(p.oneOf, func(set []string) bool { return slices.Contains(set, name) })
}

var (
	fieldName   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	profileName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
)

func compileProfile(y profileYAML) (*Profile, error) {
	p := &Profile{Name: y.Name, Title: y.Title, Status: y.Status, hosts: y.Hosts, open: y.Open,
		nonce: y.Nonce, call: y.Call, oneOf: y.OneOf, redact: y.Redact, vectors: y.Vectors}
	for _, step := range []func(profileYAML) error{p.setHead, p.setClock, p.setFields, p.setSchemes, p.setEndpoints} {
		if err := step(y); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Profile) setHead(y profileYAML) error {
	if !profileName.MatchString(p.Name) || len(p.Name) > 63 || p.Title == "" {
		return fmt.Errorf("it needs a name (a-z, 0-9, single hyphens) and a title")
	}
	switch p.Status {
	case Generic:
		if len(y.Schemes)+len(y.Endpoints)+len(y.Hosts) > 0 {
			return fmt.Errorf("a generic profile has no hosts, schemes or endpoints")
		}
		return nil
	case Complete, Signing:
	default:
		return fmt.Errorf("status is complete, signing or generic")
	}
	if len(p.hosts) == 0 || len(y.Schemes) == 0 || len(y.Endpoints) == 0 || p.open {
		return fmt.Errorf("it needs hosts, schemes and endpoints, and is not open")
	}
	for _, h := range p.hosts {
		if !validHost(h) || !strings.Contains(h, ".") {
			return fmt.Errorf("host %q is no full lower-case name", h)
		}
	}
	return checkPointer("call", y.Call)
}

func checkPointer(what, pointer string) error {
	if pointer != "" && !strings.HasPrefix(pointer, "/") {
		return fmt.Errorf("%s %q is no JSON pointer", what, pointer)
	}
	return nil
}

func (p *Profile) setClock(y profileYAML) error {
	if p.Status == Generic {
		return nil
	}
	p.clock.Unit = y.Clock.Unit
	if !slices.Contains(timeUnits(), p.clock.Unit) {
		return fmt.Errorf("clock.unit %q is no unit of time", p.clock.Unit)
	}
	window, err := time.ParseDuration(y.Clock.Window)
	if err != nil || window <= 0 || window > time.Hour {
		return fmt.Errorf("clock.window is a duration of up to an hour, such as 10s")
	}
	p.clock.Window = window
	switch p.nonce {
	case "", nonceTime, nonceUUID, nonceRand, nonceMonotonic:
		return nil
	}
	return fmt.Errorf("nonce %q is not ts, uuid, rand or monotonic", p.nonce)
}

func (p *Profile) setFields(y profileYAML) error {
	p.fields = make(map[string]fieldSpec, len(y.Fields))
	for name, written := range y.Fields {
		spec, err := parseFieldSpec(written)
		if err != nil || !fieldName.MatchString(name) {
			return fmt.Errorf("field %q: %q is no field type", name, written)
		}
		p.fields[name] = spec
	}
	if len(p.fields) == 0 && !p.open {
		return fmt.Errorf("it has no secret_fields")
	}
	for _, set := range p.oneOf {
		for _, name := range set {
			if _, ok := p.fields[name]; !ok {
				return fmt.Errorf("one_of names %q, which is no field", name)
			}
		}
	}
	return nil
}

// parseFieldSpec reads "type [algorithm] [optional]".
func parseFieldSpec(written string) (fieldSpec, error) {
	var spec fieldSpec
	words := strings.Fields(written)
	if n := len(words); n > 0 && words[n-1] == "optional" {
		spec.Optional, words = true, words[:n-1]
	}
	if len(words) == 0 {
		return spec, fmt.Errorf("no type")
	}
	spec.Type = FieldType(words[0])
	switch {
	case spec.Type == FieldSeed && len(words) == 1:
		spec.Alg = algEd25519
		return spec, nil
	case spec.Type == FieldPEM && len(words) == 2:
		spec.Alg = keyAlg(words[1])
		if spec.kind() != 0 {
			return spec, nil
		}
	case len(words) == 1 && slices.Contains([]FieldType{FieldUTF8, FieldB64, FieldHex, FieldBase58}, spec.Type):
		return spec, nil
	}
	return spec, fmt.Errorf("unknown type")
}
