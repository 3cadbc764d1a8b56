package broker

import (
	"fmt"
	"strings"
)

// Expressions are parsed by hand:
//
//	expr    := name | name "(" [ expr { "," expr } ] ")" | string
//	string  := "'" { any byte but "'" and controls | "\n" "\1" "\\" "\'" } "'"
//	name    := [a-z_][a-z0-9_]*
//
// \1 is SOH, the separator of FIX.

const (
	maxExprBytes = 2048
	maxExprDepth = 16
)

// node is a parsed expression: a literal, or a name with arguments.
type node struct {
	name    string
	literal string
	isText  bool
	call    bool
	args    []node
}

type exprParser struct {
	text  string
	at    int
	depth int
}

func parseExpr(text string) (node, error) {
	if len(text) > maxExprBytes {
		return node{}, fmt.Errorf("expression is longer than %d bytes", maxExprBytes)
	}
	p := &exprParser{text: text}
	n, err := p.expr()
	if err != nil {
		return node{}, fmt.Errorf("%w at %d in %q", err, p.at, text)
	}
	if p.space(); p.at != len(text) {
		return node{}, fmt.Errorf("unexpected text at %d in %q", p.at, text)
	}
	return n, nil
}

func (p *exprParser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// eat skips space and takes c if it is next.
func (p *exprParser) eat(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *exprParser) expr() (node, error) {
	if p.depth++; p.depth > maxExprDepth {
		return node{}, fmt.Errorf("expression nests deeper than %d", maxExprDepth)
	}
	defer func() { p.depth-- }()
	if p.eat('\'') {
		return p.literal()
	}
	start := p.at
	for p.at < len(p.text) && isNameByte(p.text[p.at]) {
		p.at++
	}
	if start == p.at {
		return node{}, fmt.Errorf("a name or a string is missing")
	}
	n := node{name: p.text[start:p.at]}
	if !p.eat('(') {
		return n, nil
	}
	n.call = true
	return p.arguments(n)
}

func isNameByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}

func (p *exprParser) arguments(n node) (node, error) {
	if p.eat(')') {
		return n, nil
	}
	for {
		arg, err := p.expr()
		if err != nil {
			return node{}, err
		}
		n.args = append(n.args, arg)
		if p.eat(')') {
			return n, nil
		}
		if !p.eat(',') {
			return node{}, fmt.Errorf("a comma or a closing bracket is missing")
		}
	}
}

func (p *exprParser) literal() (node, error) {
	var b strings.Builder
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '\'':
			return node{literal: b.String(), isText: true}, nil
		case c == '\\' && p.at < len(p.text):
			escaped, ok := map[byte]byte{'n': '\n', '1': 1, '\\': '\\', '\'': '\''}[p.text[p.at]]
			if !ok {
				return node{}, fmt.Errorf("unknown escape")
			}
			b.WriteByte(escaped)
			p.at++
		case c < ' ':
			return node{}, fmt.Errorf("control character in a string")
		default:
			b.WriteByte(c)
		}
	}
	return node{}, fmt.Errorf("a string does not end")
}
