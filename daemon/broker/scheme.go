package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// placeKind is where a value stands in a request.
type placeKind string

const (
	placeHeader placeKind = "header"
	placeQuery  placeKind = "query"
	placeForm   placeKind = "form"
	placeParam  placeKind = "param" // of the form body where there is one, else of the query
	placeJSON   placeKind = "json"
)

// place is "kind:name".
type place struct {
	kind placeKind
	name string
}

func (p place) String() string { return string(p.kind) + ":" + p.name }

func parsePlace(written string) (place, error) {
	kind, name, ok := strings.Cut(written, ":")
	p := place{placeKind(kind), name}
	switch p.kind {
	case placeHeader:
		ok = ok && validHeader(name, nil) && !refusedHeader(name)
	case placeQuery, placeForm, placeParam:
		ok = ok && name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	case placeJSON:
		ok = ok && strings.HasPrefix(name, "/")
	default:
		ok = false
	}
	if !ok {
		return place{}, fmt.Errorf("%q is no place: header:, query:, form:, param: or json:/pointer", written)
	}
	return p, nil
}

// assignment puts an expression's value at a place.
type assignment struct {
	at    place
	value expression
	keep  bool
}

type binding struct {
	name  string
	value expression
}

// scheme is one way to sign, compiled.
type scheme struct {
	name      string
	match     match
	needs     []string
	strip     []place
	insert    []assignment
	require   []expression
	let       []binding
	time      *expression
	presented *expression
	sign      *expression
	place     []assignment
}

func (p *Profile) setSchemes(y profileYAML) error {
	ops := operations()
	for _, ys := range y.Schemes {
		s, err := p.compileScheme(ys, ops)
		if err != nil {
			return fmt.Errorf("scheme %q: %w", ys.Name, err)
		}
		p.schemes = append(p.schemes, s)
	}
	return nil
}

func (p *Profile) compileScheme(y schemeYAML, ops map[string]operation) (scheme, error) {
	s := scheme{name: y.Name, needs: y.Needs}
	var err error
	if s.match, err = p.compileMatch(y.Match); err != nil {
		return s, err
	}
	for _, name := range y.Needs {
		if _, ok := p.fields[name]; !ok {
			return s, fmt.Errorf("needs %q, which is no field", name)
		}
	}
	for _, written := range y.Strip {
		at, err := parsePlace(written)
		if err != nil {
			return s, err
		}
		s.strip = append(s.strip, at)
	}
	return s, s.compileSteps(y, &scope{profile: p, ops: ops, vars: map[string]kind{}})
}

// compileSteps compiles in the order in which they run, so that a step sees the
// names bound before it.
func (s *scheme) compileSteps(y schemeYAML, sc *scope) error {
	var err error
	if s.insert, err = sc.assignments(y.Insert); err != nil {
		return err
	}
	for _, l := range y.Let {
		x, err := sc.bind(l)
		if err != nil {
			return err
		}
		s.let = append(s.let, binding{l.Name, x})
	}
	for _, r := range y.Require {
		x, err := sc.compile(r, kindBool)
		if err != nil {
			return err
		}
		s.require = append(s.require, x)
	}
	if s.time, err = sc.optionalStep(y.Time, kindText); err != nil {
		return err
	}
	if s.presented, err = sc.optionalStep(y.Presented, kindBytes); err != nil {
		return err
	}
	if s.sign, err = sc.optionalStep(y.Sign, kindBytes); err != nil {
		return err
	}
	if s.sign != nil {
		sc.vars["signature"] = s.sign.kind
	}
	s.place, err = sc.assignments(y.Place)
	if len(s.place) == 0 {
		err = errors.Join(err, fmt.Errorf("it places nothing"))
	}
	return err
}

func (sc *scope) optionalStep(source string, want kind) (*expression, error) {
	if source == "" {
		return nil, nil
	}
	x, err := sc.compile(source, want)
	return &x, err
}

func (sc *scope) bind(l letYAML) (expression, error) {
	n, err := parseExpr(l.Is)
	if err != nil {
		return expression{}, err
	}
	x, err := sc.node(n)
	if err != nil {
		return expression{}, fmt.Errorf("%w in %q", err, l.Is)
	}
	_, taken := sc.ops[l.Name]
	_, bound := sc.vars[l.Name]
	if !fieldName.MatchString(l.Name) || taken || bound || l.Name == "signature" {
		return expression{}, fmt.Errorf("let %q: the name is taken or is none", l.Name)
	}
	sc.vars[l.Name] = x.kind
	return x, nil
}

func (sc *scope) assignments(list []insertYAML) ([]assignment, error) {
	var out []assignment
	for _, y := range list {
		at, err := parsePlace(y.At)
		if err != nil {
			return nil, err
		}
		x, err := sc.compile(y.Value, kindText)
		if err != nil {
			return nil, err
		}
		out = append(out, assignment{at: at, value: x, keep: y.Keep})
	}
	return out, nil
}

// schemeFor is the first scheme that fits the request and whose fields are there.
func (p *Profile) schemeFor(r *parsed, f *Fields) (*scheme, error) {
	for i := range p.schemes {
		s := &p.schemes[i]
		if s.match.fits(p, r) && !slices.ContainsFunc(s.needs, func(n string) bool { return !f.has(n) }) {
			return s, nil
		}
	}
	return nil, ErrNoScheme
}

// run signs e.request in place.
func (s *scheme) run(e *env) error {
	for _, at := range s.strip {
		v, ok, err := e.request.cut(at)
		if err != nil {
			return err
		}
		if ok && e.purpose != signing {
			e.stripped[at.String()] = v
		}
	}
	if err := e.assign(s.insert); err != nil {
		return err
	}
	for _, l := range s.let {
		v, err := l.value.run(e)
		if err != nil {
			return absent(err)
		}
		e.vars[l.name] = v
	}
	if err := s.checks(e); err != nil {
		return absent(err)
	}
	if s.sign != nil {
		v, err := s.sign.run(e)
		if err != nil {
			return absent(err)
		}
		e.vars["signature"] = v
	}
	return e.assign(s.place)
}

// absent makes an input that is missing a fault of the request.
func absent(err error) error {
	if errors.Is(err, errAbsent) {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}

// checks holds the request to the scheme's conditions and the broker's clock.
func (s *scheme) checks(e *env) error {
	for _, r := range s.require {
		v, err := r.run(e)
		if err != nil {
			return err
		}
		if !v.yes {
			return malformed("a condition of the scheme %s does not hold", s.name)
		}
	}
	if s.presented != nil && e.purpose == verifying {
		v, err := s.presented.run(e)
		if err != nil {
			return err
		}
		e.presented = v.b
	}
	if s.time == nil {
		return nil
	}
	v, err := s.time.run(e)
	if err != nil {
		return err
	}
	return e.checkClock(string(v.b))
}

func (e *env) checkClock(written string) error {
	t, err := parseTime(e.profile.clock.Unit, written)
	if err != nil {
		return malformed("the timestamp is not in the broker's unit, %s", e.profile.clock.Unit)
	}
	off := e.at.Now.Sub(t)
	if off.Abs() > e.profile.clock.Window {
		return fmt.Errorf("%w: it is %s off, %s are allowed", ErrClock, off.Round(time.Millisecond), e.profile.clock.Window)
	}
	return nil
}

func (e *env) assign(list []assignment) error {
	for _, a := range list {
		if a.keep && e.request.present(a.at) {
			continue
		}
		v, err := a.value.run(e)
		if err != nil {
			return absent(err)
		}
		if err := e.request.put(a.at, string(v.b)); err != nil {
			return err
		}
	}
	return nil
}
