package broker

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// content is what a body holds, by its media type.
type content string

const (
	contentNone content = "none" // no body
	contentForm content = "form"
	contentJSON content = "json"
)

// parsed is a request taken apart: what matching, extraction and signing all read.
type parsed struct {
	method, scheme, host, path string
	segments                   []string // of the path
	hasQuery                   bool
	query                      *params
	header                     http.Header
	content                    content
	form                       *params    // of a form body
	json                       *jsonIndex // of a JSON body
}

// refusedHeader names what could make a broker act on another request than the one
// that was weighed.
func refusedHeader(name string) bool {
	switch name {
	case "X-Http-Method", "X-Http-Method-Override", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url",
		"Transfer-Encoding", "Content-Encoding", "Connection", "Upgrade", "Te", "Trailer", "Expect":
		return true
	}
	return strings.HasPrefix(name, "Proxy-")
}

// droppedHeader names what a client adds that is no part of the request to the broker.
func droppedHeader(name string) bool {
	switch name {
	case "Origin", "Host", "Content-Length", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return true
	}
	return false
}

func parseRequest(r Request) (*parsed, error) {
	p := &parsed{}
	if err := p.setMethod(r.Method); err != nil {
		return nil, err
	}
	if err := p.setURL(r.URL); err != nil {
		return nil, err
	}
	if err := p.setHeader(r.Header); err != nil {
		return nil, err
	}
	if err := p.setBody(r.Body); err != nil {
		return nil, err
	}
	return p, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func (p *parsed) setMethod(method string) error {
	switch method {
	case "GET", "POST", "PUT", "PATCH", "DELETE", "WS":
		p.method = method
		return nil
	}
	return malformed("the method is not GET, POST, PUT, PATCH, DELETE or WS")
}

// setURL parses scheme "://" host path [ "?" query ]. There is no port, no user, no
// fragment, and only the spelling of a path that every server reads alike.
func (p *parsed) setURL(raw string) error {
	if len(raw) > MaxURL {
		return malformed("the URL is longer than %d bytes", MaxURL)
	}
	if !utf8.ValidString(raw) || strings.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r == 0x7f || r == '#' || r == '\\' }) {
		return malformed("the URL has a control character, a backslash, a fragment or is not UTF-8")
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if want := map[bool]string{false: "https", true: "wss"}[p.method == "WS"]; !ok || scheme != want {
		return malformed("the URL does not begin with %s://", want)
	}
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return malformed("the URL has no path")
	}
	p.scheme, p.host = scheme, rest[:slash]
	if !validHost(p.host) {
		return malformed("the host is not a lower-case name alone (no user, no port)")
	}
	var query string
	p.path, query, p.hasQuery = strings.Cut(rest[slash:], "?")
	if err := checkPath(p.path); err != nil {
		return err
	}
	p.segments = strings.Split(p.path[1:], "/")
	var err error
	p.query, err = parseParams(query)
	return err
}

func validHost(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// checkPath refuses a path that two servers could read as two: dot segments, empty
// segments, path parameters, and escapes of what needs none or of a separator.
func checkPath(path string) error {
	for i, segment := range strings.Split(path[1:], "/") {
		last := i == strings.Count(path, "/")-1
		if segment == "." || segment == ".." || segment == "" && !last {
			return malformed("the path has an empty or a dot segment")
		}
	}
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '%':
			if i+2 >= len(path) || !harmlessEscape(path[i+1:i+3]) {
				return malformed("the path has a percent escape that is broken, or of a letter, digit, dot or separator")
			}
			i += 2
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("/-._~:@!$&'()*+,=", c) >= 0:
		default:
			return malformed("the path has a character that is not allowed")
		}
	}
	return nil
}

func harmlessEscape(hex string) bool {
	var c byte
	for i := range 2 {
		digit := strings.IndexByte("0123456789ABCDEF", hex[i])
		if digit < 0 {
			return false
		}
		c = c<<4 | byte(digit)
	}
	switch {
	case c < ' ', c == 0x7f, c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z':
		return false
	}
	return strings.IndexByte("/\\%.-_~;?#", c) < 0
}

func (p *parsed) setHeader(given http.Header) error {
	if len(given) > MaxHeaders {
		return malformed("more than %d headers", MaxHeaders)
	}
	p.header = make(http.Header, len(given))
	for name, values := range given {
		key := http.CanonicalHeaderKey(name)
		if !validHeader(name, values) {
			return malformed("a header has a bad name or value")
		}
		if refusedHeader(key) {
			return malformed("the header %s is not allowed", key)
		}
		if _, twice := p.header[key]; twice || len(values) != 1 {
			return malformed("the header %s is not given once", key)
		}
		if !droppedHeader(key) {
			p.header[key] = slices.Clone(values)
		}
	}
	return nil
}

const tokenBytes = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" // RFC 9110 section 5.6.2

func validHeader(name string, values []string) bool {
	if name == "" || len(name) > 128 || strings.Trim(name, tokenBytes) != "" {
		return false
	}
	for _, v := range values {
		if len(v) > MaxHeaderBytes || !printable(v) {
			return false
		}
	}
	return true
}

// printable says that a value has no control character (RFC 9110 section 5.5).
func printable(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError })
}

func (p *parsed) setBody(body []byte) error {
	p.content = contentNone
	if len(body) > MaxBody {
		return malformed("the body is longer than %d bytes", MaxBody)
	}
	if len(body) == 0 {
		return nil
	}
	kind, err := p.bodyType()
	if err != nil {
		return err
	}
	p.content = kind
	if kind == contentJSON {
		p.json, err = indexJSON(slices.Clone(body))
		return err
	}
	if !utf8.Valid(body) || !printable(string(body)) {
		return malformed("the form has a control character or is not UTF-8")
	}
	p.form, err = parseParams(string(body))
	return err
}

func (p *parsed) bodyType() (content, error) {
	if p.method == "WS" {
		return contentJSON, nil
	}
	media, args, err := mime.ParseMediaType(p.header.Get("Content-Type"))
	if err != nil {
		return "", malformed("a body needs a content type")
	}
	if charset := args["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return "", malformed("the body is not UTF-8")
	}
	switch media {
	case "application/json":
		return contentJSON, nil
	case "application/x-www-form-urlencoded":
		return contentForm, nil
	}
	return "", malformed("the body is neither a form nor JSON")
}

// param reads a parameter of the query or of a form body. One that is given twice,
// in one or across both, is refused: servers differ in which they take.
func (p *parsed) param(name string) (string, error) {
	n := p.query.count(name)
	if p.form != nil {
		n += p.form.count(name)
	}
	if n > 1 {
		return "", malformed("the parameter %s is given twice", name)
	}
	if v, ok := p.query.get(name); ok {
		return v, nil
	}
	if p.form != nil {
		if v, ok := p.form.get(name); ok {
			return v, nil
		}
	}
	return "", errAbsent
}

func (p *parsed) body() []byte {
	switch p.content {
	case contentJSON:
		return p.json.text
	case contentForm:
		return []byte(p.form.String())
	}
	return nil
}

func (p *parsed) url() string {
	u := p.scheme + "://" + p.host + p.path
	if q := p.query.String(); q != "" || p.hasQuery {
		u += "?" + q
	}
	return u
}

// clone copies what signing changes.
func (p *parsed) clone() *parsed {
	c := *p
	c.query, c.form, c.header = p.query.clone(), p.form.clone(), p.header.Clone()
	return &c
}

func (p *parsed) signed() Signed {
	return Signed{Method: p.method, URL: p.url(), Header: p.header, Body: slices.Clone(p.body())}
}
