package broker

import (
	"crypto/ecdsa"
	"crypto/sha256"
)

// Eval evaluates one expression, as a scheme's sign would, over a request and fields
// of the given types.
func Eval(expr string, r Request, types map[string]string, values map[string][]byte, at Moment) ([]byte, error) {
	p := &Profile{Name: "test", fields: map[string]fieldSpec{}}
	p.clock.Unit = "ms"
	for name, written := range types {
		spec, err := parseFieldSpec(written)
		if err != nil {
			return nil, err
		}
		p.fields[name] = spec
	}
	x, err := (&scope{profile: p, ops: operations(), vars: map[string]kind{}}).compile(expr, kindBytes)
	if err != nil {
		return nil, err
	}
	request, err := parseRequest(r)
	if err != nil {
		return nil, err
	}
	fields := &Fields{profile: "test"}
	if len(values) > 0 {
		if fields, err = p.Fields(values); err != nil {
			return nil, err
		}
	}
	v, err := x.run(&env{profile: p, request: request, fields: fields, at: at, vars: map[string]value{}, stripped: map[string]string{}})
	return v.b, err
}

// TOTP is the code of RFC 6238 with any number of digits.
func TOTP(secret []byte, unix int64, digits int) string { return totpCode(secret, unix, digits) }

// IndexJSON runs the JSON scanner alone.
func IndexJSON(text []byte) error {
	_, err := indexJSON(text)
	return err
}

// Units is the exact conversion to hundred-millionths.
func Units(s string) (int64, bool) { return units(s) }

// Operations are the names in the table of operations.
func Operations() []string {
	var names []string
	for name := range operations() {
		names = append(names, name)
	}
	return append(names, "cred", "if", "opt")
}

// VerifiesP256 is the check of a signature that a caller made with a lease.
func VerifiesP256(key *ecdsa.PublicKey, message, signature []byte) bool {
	return verifiesP256(key, sha256.Sum256(message), signature)
}
