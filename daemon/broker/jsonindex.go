package broker

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A JSON body is indexed, never decoded and written again: what is signed must be
// the bytes that go out. The index refuses what two parsers could read in two ways:
// a name given twice in one object, invalid UTF-8, trailing text.

const (
	maxJSONDepth = 16
	maxJSONNodes = 4096
)

type jsonKind uint8

const (
	jsonScalar jsonKind = iota // number, true, false, null
	jsonString
	jsonObject
	jsonArray
)

// jsonNode is one value: its bytes are text[start:end].
type jsonNode struct {
	kind       jsonKind
	start, end int
	pointer    string // RFC 6901
	name       string // in its object, unescaped
	parent     int    // index, -1 at the root
	members    int    // children of an object or array
}

type jsonIndex struct {
	text      []byte
	nodes     []jsonNode
	byPointer map[string]int
}

type jsonScanner struct {
	*jsonIndex
	at    int
	depth int
}

// indexJSON scans one whole JSON text (RFC 8259).
func indexJSON(text []byte) (*jsonIndex, error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: the JSON body is not UTF-8", ErrMalformed)
	}
	s := &jsonScanner{jsonIndex: &jsonIndex{text: text, byPointer: map[string]int{}}}
	if err := s.value("", "", -1); err != nil {
		return nil, fmt.Errorf("%w: JSON body at byte %d: %w", ErrMalformed, s.at, err)
	}
	if s.space(); s.at != len(text) {
		return nil, fmt.Errorf("%w: text after the JSON body", ErrMalformed)
	}
	return s.jsonIndex, nil
}

func (s *jsonScanner) space() {
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n", s.text[s.at]) >= 0 {
		s.at++
	}
}

func (s *jsonScanner) eat(c byte) bool {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

func (s *jsonScanner) value(pointer, name string, parent int) error {
	s.space()
	if s.at == len(s.text) {
		return fmt.Errorf("a value is missing")
	}
	if len(s.nodes) == maxJSONNodes {
		return fmt.Errorf("more than %d values", maxJSONNodes)
	}
	if _, twice := s.byPointer[pointer]; twice {
		return fmt.Errorf("a name is given twice")
	}
	n := len(s.nodes)
	s.byPointer[pointer] = n
	s.nodes = append(s.nodes, jsonNode{start: s.at, pointer: pointer, name: name, parent: parent})
	kind, err := s.scan(n, pointer)
	if err != nil {
		return err
	}
	s.nodes[n].kind, s.nodes[n].end = kind, s.at
	return nil
}

func (s *jsonScanner) scan(n int, pointer string) (jsonKind, error) {
	switch s.text[s.at] {
	case '"':
		_, err := s.string()
		return jsonString, err
	case '{':
		return jsonObject, s.children(n, pointer, '}')
	case '[':
		return jsonArray, s.children(n, pointer, ']')
	}
	return jsonScalar, s.scalar()
}

func (s *jsonScanner) children(n int, pointer string, closing byte) error {
	if s.depth++; s.depth > maxJSONDepth {
		return fmt.Errorf("deeper than %d", maxJSONDepth)
	}
	defer func() { s.depth-- }()
	s.at++
	if s.eat(closing) {
		return nil
	}
	for {
		if err := s.child(n, pointer, closing == '}'); err != nil {
			return err
		}
		s.nodes[n].members++
		if s.eat(closing) {
			return nil
		}
		if !s.eat(',') {
			return fmt.Errorf("a comma or a closing bracket is missing")
		}
	}
}

func (s *jsonScanner) child(n int, pointer string, named bool) error {
	if !named {
		return s.value(pointer+"/"+strconv.Itoa(s.nodes[n].members), "", n)
	}
	s.space()
	name, err := s.string()
	if err != nil {
		return err
	}
	if !s.eat(':') {
		return fmt.Errorf("a colon is missing")
	}
	return s.value(pointer+"/"+escapePointer.Replace(name), name, n)
}

var escapePointer = strings.NewReplacer("~", "~0", "/", "~1") // RFC 6901 section 3

// string scans a string and returns it unescaped.
func (s *jsonScanner) string() (string, error) {
	start := s.at
	if s.at == len(s.text) || s.text[s.at] != '"' {
		return "", fmt.Errorf("a string is missing")
	}
	escaped := false
	for s.at++; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return unquoteJSON(s.text[start:s.at], escaped)
		case c == '\\':
			escaped = true
			s.at++
		case c < ' ':
			return "", fmt.Errorf("control character in a string")
		}
	}
	return "", fmt.Errorf("a string does not end")
}

func (s *jsonScanner) scalar() error {
	start := s.at
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n,]}:\"[{", s.text[s.at]) < 0 {
		s.at++
	}
	switch word := string(s.text[start:s.at]); {
	case word == "true", word == "false", word == "null", jsonNumber.MatchString(word):
		return nil
	}
	return fmt.Errorf("not a value")
}

// value gives a scalar as it is written, and a string unescaped.
func (x *jsonIndex) value(pointer string) ([]byte, bool) {
	n, ok := x.byPointer[pointer]
	if !ok {
		return nil, false
	}
	return x.scalar(n)
}

func (x *jsonIndex) scalar(n int) ([]byte, bool) {
	node := x.nodes[n]
	raw := x.text[node.start:node.end]
	switch node.kind {
	case jsonString:
		s, err := unquoteJSON(raw, true)
		return []byte(s), err == nil
	case jsonScalar:
		return raw, true
	}
	return nil, false
}
