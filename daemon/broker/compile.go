package broker

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is the type of an expression's value.
type kind uint8

const (
	kindText kind = iota + 1
	kindBytes
	kindBool
	kindName // a literal that the operation reads when it is compiled
	kindEd25519
	kindRSA
	kindP256
	kindAnyKey
)

func (k kind) String() string {
	return [...]string{"nothing", "text", "bytes", "a condition", "a literal", "an Ed25519 key", "an RSA key", "a P-256 key", "a key"}[k]
}

// takes says whether a value of kind v serves where k is wanted.
func (k kind) takes(v kind) bool {
	switch k {
	case kindBytes:
		return v == kindText || v == kindBytes
	case kindAnyKey:
		return v == kindEd25519 || v == kindP256
	}
	return k == v
}

// errAbsent says that an input is not in the request; opt makes it empty.
var errAbsent = errors.New("the request lacks an input")

// value is what an expression gives: bytes, a condition or a key.
type value struct {
	b   []byte
	yes bool
	key crypto.Signer
}

func text(s string) value { return value{b: []byte(s)} }

// env is what expressions read while one request is signed.
type env struct {
	profile  *Profile
	request  *parsed
	stripped map[string]string
	fields   *Fields
	at       Moment
	purpose  purpose
	vars     map[string]value
	// presented is the caller's own signature, when a lease is verified: an
	// algorithm that is not deterministic checks it and gives it back.
	presented []byte
}

// run evaluates a compiled expression.
type run func(*env) (value, error)

// expression is a compiled expression and its type.
type expression struct {
	kind kind
	run  run
}

// operation is one row of the table of operations.
type operation struct {
	params   []kind
	variadic bool // the last kind repeats, at least once
	result   kind
	// check looks at the literals when compiled.
	check func(p *Profile, literals []string) error
	run   func(e *env, a []value) (value, error)
}

// scope is what an expression may refer to.
type scope struct {
	profile *Profile
	ops     map[string]operation
	vars    map[string]kind
	noSign  bool // an extraction or a condition: no secret may flow into it
}

// compile parses and type-checks an expression that must give a kind.
func (s *scope) compile(source string, want kind) (expression, error) {
	n, err := parseExpr(source)
	if err != nil {
		return expression{}, err
	}
	x, err := s.node(n)
	if err != nil {
		return expression{}, fmt.Errorf("%w in %q", err, source)
	}
	if !want.takes(x.kind) {
		return expression{}, fmt.Errorf("%s where %s is wanted in %q", x.kind, want, source)
	}
	return x, nil
}

func (s *scope) node(n node) (expression, error) {
	if n.isText {
		v := text(n.literal)
		return expression{kindText, func(*env) (value, error) { return v, nil }}, nil
	}
	if k, ok := s.vars[n.name]; ok && !n.call {
		name := n.name
		return expression{k, func(e *env) (value, error) { return e.vars[name], nil }}, nil
	}
	switch {
	case n.name == "cred" && n.call:
		return s.cred(n)
	case n.name == "if" && n.call:
		return s.branch(n)
	case n.name == "opt" && n.call:
		return s.optional(n)
	}
	op, ok := s.ops[n.name]
	if !ok || n.call == (op.params == nil) {
		return expression{}, fmt.Errorf("there is no operation or input %q of that form", n.name)
	}
	return s.apply(n, op)
}

// apply compiles the arguments of a row of the table.
func (s *scope) apply(n node, op operation) (expression, error) {
	more := op.variadic && len(n.args) > len(op.params)
	if len(n.args) != len(op.params) && !more {
		return expression{}, fmt.Errorf("%s takes %d arguments, not %d", n.name, len(op.params), len(n.args))
	}
	var literals []string
	var args []expression
	for i, arg := range n.args {
		want := op.params[min(i, len(op.params)-1)]
		if want == kindName {
			if !arg.isText {
				return expression{}, fmt.Errorf("argument %d of %s must be a literal", i+1, n.name)
			}
			literals = append(literals, arg.literal)
		}
		x, err := s.node(arg)
		if err != nil {
			return expression{}, err
		}
		if want != kindName && !want.takes(x.kind) {
			return expression{}, fmt.Errorf("argument %d of %s is %s, not %s", i+1, n.name, x.kind, want)
		}
		args = append(args, x)
	}
	if op.check != nil {
		if err := op.check(s.profile, literals); err != nil {
			return expression{}, fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return expression{op.result, func(e *env) (value, error) {
		values := make([]value, len(args))
		for i, a := range args {
			v, err := a.run(e)
			if err != nil {
				return value{}, err
			}
			values[i] = v
		}
		return op.run(e, values)
	}}, nil
}

// cred is a field of the credential; its kind is the field's.
func (s *scope) cred(n node) (expression, error) {
	if len(n.args) != 1 || !n.args[0].isText || s.noSign {
		return expression{}, fmt.Errorf("cred takes the name of a field, and is not used to match or extract")
	}
	name := n.args[0].literal
	spec, ok := s.profile.field(name)
	if !ok {
		return expression{}, fmt.Errorf("the profile has no field %q", name)
	}
	return expression{spec.kind(), func(e *env) (value, error) {
		if key := e.fields.keys[name]; key != nil {
			return value{key: key}, nil
		}
		if v, ok := e.fields.values[name]; ok {
			return value{b: v}, nil
		}
		return value{}, fmt.Errorf("%w: the credential has no field %s", ErrField, name)
	}}, nil
}

// branch is if(condition, then, else); only the branch taken is evaluated.
func (s *scope) branch(n node) (expression, error) {
	if len(n.args) != 3 {
		return expression{}, fmt.Errorf("if takes 3 arguments")
	}
	var x [3]expression
	for i, arg := range n.args {
		var err error
		if x[i], err = s.node(arg); err != nil {
			return expression{}, err
		}
	}
	if x[0].kind != kindBool || x[1].kind != x[2].kind {
		return expression{}, fmt.Errorf("if takes a condition and two values of one kind")
	}
	return expression{x[1].kind, func(e *env) (value, error) {
		c, err := x[0].run(e)
		if err != nil {
			return value{}, err
		}
		if c.yes {
			return x[1].run(e)
		}
		return x[2].run(e)
	}}, nil
}

func (s *scope) optional(n node) (expression, error) {
	if len(n.args) != 1 {
		return expression{}, fmt.Errorf("opt takes 1 argument")
	}
	x, err := s.node(n.args[0])
	if err != nil || x.kind != kindText && x.kind != kindBytes {
		return expression{}, errors.Join(err, fmt.Errorf("opt takes text or bytes"))
	}
	return expression{x.kind, func(e *env) (value, error) {
		v, err := x.run(e)
		if errors.Is(err, errAbsent) {
			return value{}, nil
		}
		return v, err
	}}, nil
}

// timeUnits are the ways to write a time.
func timeUnits() []string { return []string{"ns", "us", "ms", "s", "iso_ms", "iso_s"} }

const (
	layoutMS = "2006-01-02T15:04:05.000Z"
	layoutS  = "2006-01-02T15:04:05"
)

func formatTime(unit string, t time.Time) string {
	t = t.UTC()
	switch unit {
	case "ns":
		return strconv.FormatInt(t.UnixNano(), 10)
	case "us":
		return strconv.FormatInt(t.UnixMicro(), 10)
	case "ms":
		return strconv.FormatInt(t.UnixMilli(), 10)
	case "s":
		return strconv.FormatInt(t.Unix(), 10)
	case "iso_ms":
		return t.Format(layoutMS)
	}
	return t.Format(layoutS)
}

func parseTime(unit, s string) (time.Time, error) {
	if strings.HasPrefix(unit, "iso") {
		t, err := time.Parse(layoutS, strings.TrimSuffix(s, "Z")) // takes a fraction as well
		return t, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch unit {
	case "ns":
		return time.Unix(0, n), err
	case "us":
		return time.UnixMicro(n), err
	case "ms":
		return time.UnixMilli(n), err
	}
	return time.Unix(n, 0), err
}

func isUnit(_ *Profile, literals []string) error {
	if !slices.Contains(timeUnits(), literals[0]) {
		return fmt.Errorf("%q is no unit of time", literals[0])
	}
	return nil
}
