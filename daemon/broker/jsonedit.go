package broker

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`) // RFC 8259 section 6

func unquoteJSON(quoted []byte, escaped bool) (string, error) {
	if !escaped {
		return string(quoted[1 : len(quoted)-1]), nil
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return "", fmt.Errorf("a string has a bad escape")
	}
	return s, nil
}

// quoteJSON writes a string as JSON (RFC 8259 section 7), without HTML escapes.
func quoteJSON(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) != nil { // a string always encodes
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// set gives the text with the string at pointer replaced, or appended to its object
// when it is absent; every other byte stays.
func (x *jsonIndex) set(pointer, value string) ([]byte, error) {
	if n, ok := x.byPointer[pointer]; ok {
		return splice(x.text, x.nodes[n].start, x.nodes[n].end, quoteJSON(value)), nil
	}
	cut := strings.LastIndexByte(pointer, '/')
	if cut < 0 {
		return nil, fmt.Errorf("%w: the JSON body is not an object", ErrMalformed)
	}
	n, ok := x.byPointer[pointer[:cut]]
	if !ok || x.nodes[n].kind != jsonObject {
		return nil, fmt.Errorf("%w: the JSON body has no object at %q", ErrMalformed, pointer[:cut])
	}
	member := quoteJSON(pointer[cut+1:]) + ":" + quoteJSON(value)
	if x.nodes[n].members > 0 {
		member = "," + member
	}
	end := x.nodes[n].end - 1
	return splice(x.text, end, end, member), nil
}

func splice(text []byte, start, end int, with string) []byte {
	return slices.Concat(text[:start], []byte(with), text[end:])
}

// children are the indexes of an object's or array's own values, in order.
func (x *jsonIndex) children(n int) []int {
	var out []int
	for i, node := range x.nodes {
		if node.parent == n {
			out = append(out, i)
		}
	}
	return out
}

// sortedMembers are an object's own values by name, without those at skip.
func (x *jsonIndex) sortedMembers(pointer string, skip ...string) ([]int, error) {
	n, ok := x.byPointer[pointer]
	if !ok || x.nodes[n].kind != jsonObject {
		return nil, errAbsent
	}
	out := slices.DeleteFunc(x.children(n), func(i int) bool { return slices.Contains(skip, x.nodes[i].pointer) })
	slices.SortFunc(out, func(a, b int) int { return strings.Compare(x.nodes[a].name, x.nodes[b].name) })
	return out, nil
}

// query writes an object as name=value&…, sorted, not encoded: the form that
// Binance's WebSocket API signs.
func (x *jsonIndex) query(pointer string, skip ...string) ([]byte, error) {
	members, err := x.sortedMembers(pointer, skip...)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, m := range members {
		v, ok := x.scalar(m)
		if !ok {
			v = x.text[x.nodes[m].start:x.nodes[m].end]
		}
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(x.nodes[m].name + "=" + string(v))
	}
	return []byte(b.String()), nil
}

// flat writes a value as Crypto.com signs it: an object's names and values, sorted
// by name and joined by nothing; an array's values; null as "null".
func (x *jsonIndex) flat(pointer string) ([]byte, error) {
	n, ok := x.byPointer[pointer]
	if !ok {
		return nil, errAbsent
	}
	var b strings.Builder
	x.writeFlat(&b, n)
	return []byte(b.String()), nil
}

func (x *jsonIndex) writeFlat(b *strings.Builder, n int) {
	children := x.children(n)
	if x.nodes[n].kind == jsonObject {
		slices.SortFunc(children, func(a, c int) int { return strings.Compare(x.nodes[a].name, x.nodes[c].name) })
	}
	for _, c := range children {
		b.WriteString(x.nodes[c].name)
		x.writeFlat(b, c)
	}
	if v, ok := x.scalar(n); ok {
		b.Write(v)
	}
}
