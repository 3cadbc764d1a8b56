package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// endpoint is one row of a profile's table of endpoints.
type endpoint struct {
	match   match
	class   Class
	extract map[string]expression
}

// Extract is what policy may ask of a request, as the broker writes it: quantities are
// in the broker's own unit for the symbol (coins, contracts). A value that the request
// does not carry, or that cannot be told from a single parameter (a batch), is empty.
type Extract struct {
	Symbol, Side, Qty, Price, QuoteQty string
}

func extractNames() []string { return []string{"symbol", "side", "qty", "price", "quote_qty"} }

func (p *Profile) setEndpoints(y profileYAML) error {
	sc := &scope{profile: p, ops: operations(), vars: map[string]kind{}, noSign: true}
	extracts := map[string]map[string]expression{}
	for name, written := range y.Extracts {
		extracts[name] = map[string]expression{}
		for what, source := range written {
			if !slices.Contains(extractNames(), what) {
				return fmt.Errorf("extract %s: %q is not symbol, side, qty, price or quote_qty", name, what)
			}
			x, err := sc.compile(source, kindText)
			if err != nil {
				return fmt.Errorf("extract %s: %w", name, err)
			}
			extracts[name][what] = x
		}
	}
	for i, ye := range y.Endpoints {
		m, err := p.compileMatch(ye.Match)
		if err != nil {
			return fmt.Errorf("endpoint %d: %w", i+1, err)
		}
		x, known := extracts[ye.Extract]
		if !ye.Class.Valid() || len(m.paths) == 0 || len(m.methods) == 0 || ye.Extract != "" && !known {
			return fmt.Errorf("endpoint %d (%s): it needs methods, paths, a class and a known extract", i+1, strings.Join(ye.Match.Paths, " "))
		}
		p.endpoints = append(p.endpoints, endpoint{match: m, class: ye.Class, extract: x})
	}
	return nil
}

// classify finds the row of a request: the first that fits.
func (p *Profile) classify(r *parsed) (*endpoint, error) {
	for i := range p.endpoints {
		if p.endpoints[i].match.fits(p, r) {
			return &p.endpoints[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %s %s%s in %s", ErrUnclassified, r.method, r.host, r.path, p.Name)
}

func (p *Profile) extract(r *parsed, row *endpoint) (Extract, error) {
	e := &env{profile: p, request: r}
	got := map[string]string{}
	for what, x := range row.extract {
		v, err := x.run(e)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return Extract{}, err
		}
		if len(v.b) > 128 {
			return Extract{}, malformed("%s is longer than 128 bytes", what)
		}
		got[what] = string(v.b)
	}
	return Extract{got["symbol"], strings.ToLower(got["side"]), got["qty"], got["price"], got["quote_qty"]}, nil
}

// context is the extract in the terms of policy: numbers as whole hundred-millionths.
func (x Extract) context(m map[string]any) error {
	for name, v := range map[string]string{"symbol": x.Symbol, "side": x.Side} {
		if v != "" {
			m[name] = v
		}
	}
	for name, v := range map[string]string{"qty": x.Qty, "price": x.Price, "quote_qty": x.QuoteQty} {
		if v == "" {
			continue
		}
		n, ok := units(v)
		if !ok {
			return malformed("%s is not a plain decimal of at most 10 digits before and 8 after the point", name)
		}
		m[name] = n
	}
	return nil
}

// units turns a plain decimal into whole hundred-millionths, exactly or not at all:
// a value that policy cannot weigh is not signed.
func units(s string) (int64, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	fraction = strings.TrimRight(fraction, "0")
	if whole == "" || len(whole) > 10 || len(fraction) > 8 || strings.HasSuffix(s, ".") {
		return 0, false
	}
	var n int64
	for _, c := range whole + fraction + strings.Repeat("0", 8-len(fraction)) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
