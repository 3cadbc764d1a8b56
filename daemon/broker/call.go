package broker

import (
	"crypto/hmac"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// Call is a request that was parsed, pinned to the broker's hosts and classed. What
// policy weighs and what is signed is this one object. It is immutable.
type Call struct {
	profile  *Profile
	request  *parsed
	endpoint *endpoint
	extract  Extract
	context  map[string]any
}

// Parse takes a request apart. It fails with [ErrMalformed], [ErrHost] or
// [ErrUnclassified]; then nothing was, and nothing can be, signed.
func (p *Profile) Parse(r Request) (*Call, error) {
	request, err := parseRequest(r)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(p.hosts, request.host) {
		return nil, fmt.Errorf("%w: %s is not of %s", ErrHost, request.host, p.Name)
	}
	c := &Call{profile: p, request: request}
	if c.endpoint, err = p.classify(request); err != nil {
		return nil, err
	}
	if c.extract, err = p.extract(request, c.endpoint); err != nil {
		return nil, err
	}
	c.context = map[string]any{"broker": p.Name, "class": string(c.endpoint.class), "host": request.host, "method": request.method}
	if err := c.extract.context(c.context); err != nil {
		return nil, err
	}
	return c, nil
}

// Class is what the endpoint does.
func (c *Call) Class() Class { return c.endpoint.class }

// Host is where the request goes.
func (c *Call) Host() string { return c.request.host }

// Path is the path of the request, which is what audit records.
func (c *Call) Path() string { return c.request.path }

// Method is the HTTP method, or "WS".
func (c *Call) Method() string { return c.request.method }

// Extract is what the request says about an order.
func (c *Call) Extract() Extract { return c.extract }

// Context is the context of the action credential.sign: broker, class, host and
// method, and symbol, side, qty, price and quote_qty where the request carries them.
func (c *Call) Context() map[string]any { return maps.Clone(c.context) }

// Sign signs the request with a credential's fields. What the caller put where the
// profile places its own (a key, a signature) is dropped, never read.
func (c *Call) Sign(f *Fields, at Moment) (Signed, error) {
	r, err := c.run(f, at, signing)
	if err != nil {
		return Signed{}, err
	}
	return r.signed(), nil
}

// Resign verifies that the request is signed with the lease, whole, and signs it
// with the credential. The bot's timestamp and nonce stay. [ErrLease] when the
// request is not exactly what the lease would have made of it.
func (c *Call) Resign(lease, credential *Fields, at Moment) (Signed, error) {
	expected, err := c.run(lease, at, verifying)
	if err != nil {
		return Signed{}, err
	}
	if !expected.same(c.request) {
		return Signed{}, ErrLease
	}
	r, err := c.run(credential, at, resigning)
	if err != nil {
		return Signed{}, err
	}
	return r.signed(), nil
}

// purpose is what a scheme is run for.
type purpose uint8

const (
	signing   purpose = iota // what was stripped is forgotten: nobody verified it
	verifying                // what was stripped is read, and the caller's signature weighed
	resigning                // what was stripped is read: it was verified
)

func (c *Call) run(f *Fields, at Moment, why purpose) (*parsed, error) {
	if f == nil || f.profile != c.profile.Name {
		return nil, fmt.Errorf("%w: the credential is not one of %s", ErrField, c.profile.Name)
	}
	s, err := c.profile.schemeFor(c.request, f)
	if err != nil {
		return nil, err
	}
	e := &env{profile: c.profile, request: c.request.clone(), stripped: map[string]string{},
		fields: f, at: at, purpose: why, vars: map[string]value{}}
	if err := s.run(e); err != nil {
		return nil, err
	}
	return e.request, nil
}

// same compares all that was signed or placed, in constant time.
func (p *parsed) same(q *parsed) bool {
	ok := hmac.Equal([]byte(p.url()), []byte(q.url())) && hmac.Equal(p.body(), q.body())
	return ok && len(p.header) == len(q.header) && sameHeader(p.header, q.header)
}

func sameHeader(a, b http.Header) bool {
	ok := true
	for name, values := range a {
		ok = hmac.Equal([]byte(values[0]), []byte(b.Get(name))) && ok
	}
	return ok
}

// Sign parses, classes and signs in one step, for callers with no policy to ask.
func (p *Profile) Sign(r Request, f *Fields, at Moment) (Signed, Class, Extract, error) {
	c, err := p.Parse(r)
	if err != nil {
		return Signed{}, "", Extract{}, err
	}
	s, err := c.Sign(f, at)
	if err != nil {
		return Signed{}, "", Extract{}, err
	}
	return s, c.Class(), c.Extract(), nil
}
