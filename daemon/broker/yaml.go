package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// maxProfileBytes bounds a profile's YAML.
const maxProfileBytes = 256 << 10

// profileYAML is a profile as it is written. Unknown fields are refused.
type profileYAML struct {
	Name    string            `yaml:"name"`
	Title   string            `yaml:"title"`
	Status  Status            `yaml:"status"`
	Hosts   []string          `yaml:"hosts"`
	Fields  map[string]string `yaml:"secret_fields"` // "utf8", "b64 optional", "pem ed25519"
	OneOf   [][]string        `yaml:"one_of"`
	Open    bool              `yaml:"open"` // any field name, of text: for secrets that are no broker's
	Clock   clockYAML         `yaml:"clock"`
	Nonce   nonceKind         `yaml:"nonce"`
	Call    string            `yaml:"call"` // JSON pointer to a WebSocket message's method
	Schemes []schemeYAML      `yaml:"schemes"`
	// Endpoints are matched in order; the first match gives the class.
	Extracts  map[string]map[string]string `yaml:"extracts"`
	Endpoints []endpointYAML               `yaml:"endpoints"`
	Redact    []string                     `yaml:"redact"`
	// Vectors maps a re-signing vector's credential to fields, by the vector's broker.
	Vectors map[string]map[string]string `yaml:"vectors"`
}

type clockYAML struct {
	Unit   string `yaml:"unit"`
	Window string `yaml:"window"` // a Go duration
}

type matchYAML struct {
	Methods []string  `yaml:"methods"`
	Hosts   []string  `yaml:"hosts"`
	Paths   []string  `yaml:"paths"`
	Content []content `yaml:"content"`
	Calls   []string  `yaml:"calls"`
	Headers []string  `yaml:"headers"` // that the request carries
}

type insertYAML struct {
	At    string `yaml:"at"`
	Value string `yaml:"value"`
	Keep  bool   `yaml:"keep"` // the caller's own value stays
}

type letYAML struct {
	Name string `yaml:"name"`
	Is   string `yaml:"is"`
}

type schemeYAML struct {
	Name      string       `yaml:"name"`
	Match     matchYAML    `yaml:"match"`
	Needs     []string     `yaml:"needs"`
	Strip     []string     `yaml:"strip"`
	Insert    []insertYAML `yaml:"insert"`
	Require   []string     `yaml:"require"`
	Let       []letYAML    `yaml:"let"`
	Time      string       `yaml:"time"`
	Presented string       `yaml:"presented"`
	Sign      string       `yaml:"sign"`
	Place     []insertYAML `yaml:"place"`
}

type endpointYAML struct {
	Match   matchYAML `yaml:",inline"`
	Class   Class     `yaml:"class"`
	Extract string    `yaml:"extract"`
}

// Load reads one profile from YAML, compiles and type-checks it. What is wrong is an
// error that wraps [ErrProfile] and names the place.
func Load(text []byte) (*Profile, error) {
	if len(text) > maxProfileBytes {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrProfile, maxProfileBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var y profileYAML
	if err := dec.Decode(&y); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one YAML document", ErrProfile)
	}
	p, err := compileProfile(y)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrProfile, y.Name, err)
	}
	return p, nil
}
