package broker

import (
	"net/http"
	"strings"
)

// list gives the params a place is in, nil where the request has none of the kind.
func (p *parsed) list(k placeKind) *params {
	switch {
	case k == placeForm, k == placeParam && p.form != nil:
		return p.form
	case k == placeQuery, k == placeParam:
		return p.query
	}
	return nil
}

// present says whether a place holds a value.
func (p *parsed) present(at place) bool {
	switch at.kind {
	case placeHeader:
		return p.header.Get(at.name) != ""
	case placeJSON:
		if p.json == nil {
			return false
		}
		_, ok := p.json.byPointer[at.name]
		return ok
	case placeParam:
		return p.query.count(at.name) > 0 || p.form != nil && p.form.count(at.name) > 0
	}
	list := p.list(at.kind)
	return list != nil && list.count(at.name) > 0
}

// cut takes the value at a place out of the request. A value given twice is refused.
func (p *parsed) cut(at place) (string, bool, error) {
	switch at.kind {
	case placeHeader:
		v := p.header.Get(at.name)
		p.header.Del(at.name)
		return v, v != "", nil
	case placeJSON:
		return p.cutJSON(at.name)
	}
	if _, err := p.param(at.name); err != nil && err != errAbsent { //nolint:errorlint // our own, unwrapped
		return "", false, err
	}
	for _, list := range p.lists(at.kind) {
		if v, ok := list.cut(at.name); ok {
			return v, true, nil
		}
	}
	return "", false, nil
}

// lists are the params a place may be in, for taking out.
func (p *parsed) lists(k placeKind) []*params {
	var out []*params
	if k != placeForm {
		out = append(out, p.query)
	}
	if k != placeQuery && p.form != nil {
		out = append(out, p.form)
	}
	return out
}

// cutJSON empties a string in place, so that its place is kept for the new one.
func (p *parsed) cutJSON(pointer string) (string, bool, error) {
	if p.json == nil {
		return "", false, nil
	}
	n, ok := p.json.byPointer[pointer]
	if !ok {
		return "", false, nil
	}
	if p.json.nodes[n].kind != jsonString {
		return "", false, malformed("the JSON body has no string at %s", pointer)
	}
	v, _ := p.json.value(pointer)
	return string(v), true, p.put(place{placeJSON, pointer}, "")
}

// put writes a value at a place, as it is: what would break out of it is refused.
func (p *parsed) put(at place, value string) error {
	switch at.kind {
	case placeHeader:
		if !printable(value) || len(value) > MaxHeaderBytes {
			return malformed("a value does not fit the header %s", at.name)
		}
		p.header[http.CanonicalHeaderKey(at.name)] = []string{value}
		return nil
	case placeJSON:
		if p.json == nil {
			return malformed("the request needs a JSON body")
		}
		text, err := p.json.set(at.name, value)
		if err != nil {
			return err
		}
		p.json, err = indexJSON(text)
		return err
	}
	list := p.list(at.kind)
	if list == nil {
		return malformed("the request needs a form body")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("&#?=\"", r) }) {
		return malformed("a value for the parameter %s is not percent-encoded", at.name)
	}
	list.set(at.name, value)
	return nil
}
