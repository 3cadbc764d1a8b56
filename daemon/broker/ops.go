package broker

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"  // brokers still use it
	"crypto/sha1" // RFC 6238, RFC 5849
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// operations is the closed table. Inputs are in inputs.go, keyed operations in keyed.go.
func operations() map[string]operation {
	t := map[string]operation{
		"cat":       {params: []kind{kindText}, variadic: true, result: kindText, run: concat},
		"bcat":      {params: []kind{kindBytes}, variadic: true, result: kindBytes, run: concat},
		"join":      {params: []kind{kindText, kindText}, variadic: true, result: kindText, run: join},
		"lower":     textual(strings.ToLower),
		"upper":     textual(strings.ToUpper),
		"pctenc":    textual(percentEncode),
		"pctdec":    decoding(kindText, func(s string) ([]byte, error) { v, err := url.PathUnescape(s); return []byte(v), err }),
		"jsonstr":   textual(quoteJSON),
		"hex":       encoding(hex.EncodeToString),
		"b64":       encoding(base64.StdEncoding.EncodeToString),
		"b64url":    encoding(base64.RawURLEncoding.EncodeToString),
		"hexdec":    decoding(kindBytes, hex.DecodeString),
		"b64dec":    decoding(kindBytes, base64.StdEncoding.DecodeString),
		"b64urldec": decoding(kindBytes, base64.RawURLEncoding.DecodeString),
		"md5":       digest(func(b []byte) []byte { d := md5.Sum(b); return d[:] }),
		"sha1":      digest(func(b []byte) []byte { d := sha1.Sum(b); return d[:] }),
		"sha256":    digest(func(b []byte) []byte { d := sha256.Sum256(b); return d[:] }),
		"sha384":    digest(func(b []byte) []byte { d := sha512.Sum384(b); return d[:] }),
		"sha512":    digest(func(b []byte) []byte { d := sha512.Sum512(b); return d[:] }),
		"hmac":      {params: []kind{kindName, kindBytes, kindBytes}, result: kindBytes, check: isHash, run: keyedHash},
		"totp":      {params: []kind{kindBytes}, result: kindText, run: totp},
		"part":      {params: []kind{kindBytes, kindName, kindName}, result: kindText, check: isPart, run: part},
		"json_of":   {params: []kind{kindBytes, kindName}, result: kindText, run: jsonOf},
		"plus":      {params: []kind{kindText, kindName}, result: kindText, check: isSeconds, run: plus},
		"eq":        {params: []kind{kindBytes, kindBytes}, result: kindBool, run: equal},
		"empty":     {params: []kind{kindBytes}, result: kindBool, run: empty},
		"not":       {params: []kind{kindBool}, result: kindBool, run: negate},
	}
	addInputs(t)
	addKeyed(t)
	return t
}

func textual(f func(string) string) operation {
	return operation{params: []kind{kindText}, result: kindText,
		run: func(_ *env, a []value) (value, error) { return text(f(string(a[0].b))), nil }}
}

func encoding(f func([]byte) string) operation {
	return operation{params: []kind{kindBytes}, result: kindText,
		run: func(_ *env, a []value) (value, error) { return text(f(a[0].b)), nil }}
}

func decoding(result kind, f func(string) ([]byte, error)) operation {
	return operation{params: []kind{kindText}, result: result, run: func(_ *env, a []value) (value, error) {
		b, err := f(string(a[0].b))
		if err != nil {
			return value{}, malformed("a value is not in the encoding that the profile expects")
		}
		return value{b: b}, nil
	}}
}

func digest(f func([]byte) []byte) operation {
	return operation{params: []kind{kindBytes}, result: kindBytes,
		run: func(_ *env, a []value) (value, error) { return value{b: f(a[0].b)}, nil }}
}

func concat(_ *env, a []value) (value, error) {
	var b []byte
	for _, v := range a {
		b = append(b, v.b...)
	}
	return value{b: b}, nil
}

// join(separator, a, b, …)
func join(_ *env, a []value) (value, error) {
	parts := make([][]byte, len(a)-1)
	for i, v := range a[1:] {
		parts[i] = v.b
	}
	return value{b: bytes.Join(parts, a[0].b)}, nil
}

// percentEncode writes all but unreserved characters as escapes (RFC 3986 section 2.3).
func percentEncode(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func newHash(name string) func() hash.Hash {
	switch name {
	case "md5":
		return md5.New
	case "sha1":
		return sha1.New
	case "sha256":
		return sha256.New
	case "sha384":
		return sha512.New384
	case "sha512":
		return sha512.New
	}
	return nil
}

func isHash(_ *Profile, literals []string) error {
	if newHash(literals[0]) == nil {
		return fmt.Errorf("%q is no hash", literals[0])
	}
	return nil
}

func keyedHash(_ *env, a []value) (value, error) {
	mac := hmac.New(newHash(string(a[0].b)), a[1].b)
	mac.Write(a[2].b)
	return value{b: mac.Sum(nil)}, nil
}

// totp is the six-digit code of RFC 6238 with SHA-1 and steps of 30 seconds.
func totp(e *env, a []value) (value, error) { return text(totpCode(a[0].b, e.at.Now.Unix(), 6)), nil }

func totpCode(secret []byte, unix int64, digits int) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(unix/30)))
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 15 // RFC 4226 section 5.3
	code := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	modulus := uint32(1)
	for range digits {
		modulus *= 10
	}
	return fmt.Sprintf("%0*d", digits, code%modulus)
}

// part(value, separator, index) is one piece of a value; a piece that is not there is absent.
func part(_ *env, a []value) (value, error) {
	pieces := bytes.Split(a[0].b, a[1].b)
	i := int(a[2].b[0] - '0')
	if i >= len(pieces) {
		return value{}, errAbsent
	}
	return value{b: pieces[i]}, nil
}

func isPart(_ *Profile, literals []string) error {
	if literals[0] == "" || len(literals[1]) != 1 || literals[1] < "0" || literals[1] > "9" {
		return fmt.Errorf("it takes a separator and an index of one digit")
	}
	return nil
}

// plus(number, literal) adds whole numbers.
func plus(_ *env, a []value) (value, error) {
	n, err := strconv.ParseInt(string(a[0].b), 10, 64)
	if err != nil || n < 0 || n > 1<<53 {
		return value{}, malformed("a time is not a whole number")
	}
	add, err := strconv.ParseInt(string(a[1].b), 10, 64)
	return text(strconv.FormatInt(n+add, 10)), err
}

func isSeconds(_ *Profile, literals []string) error {
	if n, err := strconv.Atoi(literals[0]); err != nil || n < 0 || n > 1_000_000 {
		return fmt.Errorf("%q is no small whole number", literals[0])
	}
	return nil
}

// jsonOf(value, pointer) reads one value of a JSON text.
func jsonOf(_ *env, a []value) (value, error) {
	x, err := indexJSON(a[0].b)
	if err != nil {
		return value{}, err
	}
	v, ok := x.value(string(a[1].b))
	if !ok {
		return value{}, errAbsent
	}
	return value{b: slices.Clone(v)}, nil
}

func equal(_ *env, a []value) (value, error) { return value{yes: bytes.Equal(a[0].b, a[1].b)}, nil }

func empty(_ *env, a []value) (value, error) { return value{yes: len(a[0].b) == 0}, nil }

func negate(_ *env, a []value) (value, error) { return value{yes: !a[0].yes}, nil }
