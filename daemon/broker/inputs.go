package broker

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// addInputs adds what an expression can read of the request and of the moment.
func addInputs(t map[string]operation) {
	input := func(name string, f func(*env) (string, error)) {
		t[name] = operation{result: kindText, run: func(e *env, _ []value) (value, error) {
			s, err := f(e)
			return text(s), err
		}}
	}
	plain := func(name string, f func(*env) string) {
		input(name, func(e *env) (string, error) { return f(e), nil })
	}
	of := func(name string, check func(*Profile, []string) error, f func(*env, string) (string, error)) {
		t[name] = operation{params: []kind{kindName}, result: kindText, check: check, run: func(e *env, a []value) (value, error) {
			s, err := f(e, string(a[0].b))
			return text(s), err
		}}
	}
	plain("method", func(e *env) string { return e.request.method })
	plain("host", func(e *env) string { return e.request.host })
	plain("path", func(e *env) string { return e.request.path })
	plain("query", func(e *env) string { return e.request.query.String() })
	plain("query_sorted", func(e *env) string { return e.request.query.sorted() })
	plain("query_decoded", func(e *env) string { return e.request.query.decoded() })
	plain("body", func(e *env) string { return string(e.request.body()) })
	plain("body_sorted", func(e *env) string {
		if e.request.form == nil {
			return ""
		}
		return e.request.form.sorted()
	})
	plain("ts", func(e *env) string { return formatTime(e.profile.clock.Unit, e.at.Now) })
	input("nonce", func(e *env) (string, error) { return e.nonce() })
	input("uuid", func(e *env) (string, error) { return e.uuid() })
	input("rand", func(e *env) (string, error) { b, err := e.bytes(16); return hex.EncodeToString(b), err })
	of("time", isUnit, func(e *env, unit string) (string, error) { return formatTime(unit, e.at.Now), nil })
	of("path_strip", nil, func(e *env, prefix string) (string, error) { return strings.TrimPrefix(e.request.path, prefix), nil })
	of("param", nil, func(e *env, name string) (string, error) { return e.request.param(name) })
	of("header", nil, (*env).header)
	of("stripped", isPlace, func(e *env, place string) (string, error) {
		if v, ok := e.stripped[place]; ok {
			return v, nil
		}
		return "", errAbsent
	})
	of("json", isPointer, func(e *env, pointer string) (string, error) {
		return e.inJSON(func(x *jsonIndex) ([]byte, error) {
			if v, ok := x.value(pointer); ok {
				return v, nil
			}
			return nil, errAbsent
		})
	})
	of("json_flat", isPointer, func(e *env, pointer string) (string, error) {
		return e.inJSON(func(x *jsonIndex) ([]byte, error) { return x.flat(pointer) })
	})
	t["json_query"] = operation{params: []kind{kindName, kindName}, result: kindText, check: isPointer, run: func(e *env, a []value) (value, error) {
		s, err := e.inJSON(func(x *jsonIndex) ([]byte, error) { return x.query(string(a[0].b), string(a[1].b)) })
		return text(s), err
	}}
}

func (e *env) header(name string) (string, error) {
	if v := e.request.header.Get(name); v != "" {
		return v, nil
	}
	return "", errAbsent
}

func (e *env) inJSON(f func(*jsonIndex) ([]byte, error)) (string, error) {
	if e.request.json == nil {
		return "", errAbsent
	}
	b, err := f(e.request.json)
	return string(b), err
}

// nonce gives the profile's kind of nonce. One that must grow is the caller's to order.
func (e *env) nonce() (string, error) {
	switch e.profile.nonce {
	case nonceMonotonic:
		if e.at.Nonce == "" {
			return "", ErrNonce
		}
		return e.at.Nonce, nil
	case nonceUUID:
		return e.uuid()
	case nonceRand:
		b, err := e.bytes(16)
		return hex.EncodeToString(b), err
	}
	return formatTime(e.profile.clock.Unit, e.at.Now), nil
}

// uuid is a random UUID (RFC 9562 section 5.4).
func (e *env) uuid() (string, error) {
	b, err := e.bytes(16)
	if err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func (e *env) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}

func isPointer(_ *Profile, literals []string) error {
	for _, l := range literals {
		if l != "" && !strings.HasPrefix(l, "/") {
			return fmt.Errorf("%q is no JSON pointer", l)
		}
	}
	return nil
}

func isPlace(_ *Profile, literals []string) error {
	_, err := parsePlace(literals[0])
	return err
}
