package broker

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// params is a query or a form body, as it is written: pairs cut at '&', never
// encoded again. A pair that was cut out leaves its place, so that the value put in
// later stands where the caller's stood.
type params struct {
	pairs []pair
}

type pair struct {
	name string // decoded
	raw  string
	gone bool
}

func parseParams(raw string) (*params, error) {
	p := &params{}
	if raw == "" {
		return p, nil
	}
	for part := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(key)
		if err == nil {
			_, err = url.QueryUnescape(value)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: a parameter has a bad percent escape", ErrMalformed)
		}
		p.pairs = append(p.pairs, pair{name: name, raw: part})
	}
	return p, nil
}

// count says how many pairs, cut ones aside, have the name.
func (p *params) count(name string) int {
	n := 0
	for _, pair := range p.pairs {
		if pair.name == name && !pair.gone {
			n++
		}
	}
	return n
}

// get gives the decoded value of a name.
func (p *params) get(name string) (string, bool) {
	for _, pair := range p.pairs {
		if pair.name != name || pair.gone {
			continue
		}
		_, raw, _ := strings.Cut(pair.raw, "=")
		value, err := url.QueryUnescape(raw)
		return value, err == nil
	}
	return "", false
}

// cut takes a pair out and returns its value as it was written.
func (p *params) cut(name string) (string, bool) {
	for i, pair := range p.pairs {
		if pair.name == name && !pair.gone {
			p.pairs[i].gone = true
			_, raw, _ := strings.Cut(pair.raw, "=")
			return raw, true
		}
	}
	return "", false
}

// set puts name=raw where a pair of the name stands or stood, else at the end.
func (p *params) set(name, raw string) {
	at := slices.IndexFunc(p.pairs, func(q pair) bool { return q.name == name })
	if at < 0 {
		p.pairs = append(p.pairs, pair{})
		at = len(p.pairs) - 1
	}
	p.pairs[at] = pair{name: name, raw: name + "=" + raw}
}

func (p *params) clone() *params {
	if p == nil {
		return nil
	}
	return &params{pairs: slices.Clone(p.pairs)}
}

func (p *params) String() string {
	var b strings.Builder
	for _, pair := range p.pairs {
		if pair.gone {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(pair.raw)
	}
	return b.String()
}

// sorted is the pairs in byte order of their names.
func (p *params) sorted() string {
	q := p.clone()
	slices.SortStableFunc(q.pairs, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	return q.String()
}

// decoded is the pairs with their percent escapes undone.
func (p *params) decoded() string {
	var b bytes.Buffer
	for _, pair := range p.pairs {
		if pair.gone {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		s, err := url.PathUnescape(pair.raw)
		if err != nil { // ruled out by parseParams
			s = pair.raw
		}
		b.WriteString(s)
	}
	return b.String()
}
