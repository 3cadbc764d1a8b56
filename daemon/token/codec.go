package token

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"warder/daemon/identity"
)

// The payload has one spelling for each set of claims: JSON (RFC 8259) without spaces or escapes, its members in this
// order. Reading takes exactly what writing gives, so that there is no duplicate member, no unknown one, no second
// way to write a number and nothing that two parsers could read differently (RFC 8725, section 2.4).
//
//	{"iss":S,"sub":S,"aud":S,"iat":N,"nbf":N,"exp":N,"jti":S,"cnf":{"x5t#S256":S},"epoch":N,
//	 "authorization_details":[{"type":"warder","actions":[S,…],"resource":{"type":S,"namespace":S[,"name":S]}},…]
//	 [,"max_uses":N]}
//
// S is a string of visible ASCII without quote and backslash, N a whole number from 0 without leading zeros.

// maxText bounds one string of a payload, in bytes.
const maxText = 255

// plain says whether a text may stand in a payload as it is.
func plain(text string) bool {
	if len(text) > maxText {
		return false
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// check holds claims against what a payload can carry.
func (c *Claims) check() error {
	texts := []string{c.Issuer, c.Audience, c.ID, c.Binding.Certificate}
	if len(c.Grants) == 0 || len(c.Grants) > maxGrants {
		return fmt.Errorf("%w: want 1 to %d grants", ErrBadRequest, maxGrants)
	}
	for i := range c.Grants {
		grant := &c.Grants[i]
		if len(grant.Actions) == 0 || len(grant.Actions) > maxActions || grant.Type != detailType {
			return fmt.Errorf("%w: a grant is of type %s and has 1 to %d actions", ErrBadRequest, detailType, maxActions)
		}
		texts = append(append(texts, grant.Resource.Type, grant.Resource.Namespace, grant.Resource.Name), grant.Actions...)
	}
	for _, text := range texts {
		if !plain(text) {
			return fmt.Errorf("%w: a name in it is longer than %d characters, or not of visible ASCII without quotes", ErrBadRequest, maxText)
		}
	}
	if c.Subject == (identity.Principal{}) || c.IssuedAt < 0 || c.NotUntil < 0 || c.Expires < 0 {
		return fmt.Errorf("%w: it has no subject, or a time before 1970", ErrBadRequest)
	}
	return nil
}

// appendPayload writes checked claims.
func (c *Claims) appendPayload(b []byte) []byte {
	b = appendText(append(b, `{"iss":`...), c.Issuer)
	b = appendText(append(b, `,"sub":`...), c.Subject.String())
	b = appendText(append(b, `,"aud":`...), c.Audience)
	b = strconv.AppendInt(append(b, `,"iat":`...), c.IssuedAt, 10)
	b = strconv.AppendInt(append(b, `,"nbf":`...), c.NotUntil, 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), c.Expires, 10)
	b = appendText(append(b, `,"jti":`...), c.ID)
	b = appendText(append(b, `,"cnf":{"x5t#S256":`...), c.Binding.Certificate)
	b = strconv.AppendUint(append(b, `},"epoch":`...), c.Epoch, 10)
	b = append(b, `,"authorization_details":[`...)
	for i := range c.Grants {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.Grants[i].appendTo(b)
	}
	b = append(b, ']')
	if c.MaxUses > 0 {
		b = strconv.AppendUint(append(b, `,"max_uses":`...), uint64(c.MaxUses), 10)
	}
	return append(b, '}')
}

func (g *Grant) appendTo(b []byte) []byte {
	b = append(b, `{"type":"`+detailType+`","actions":[`...)
	for i, action := range g.Actions {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, action)
	}
	b = appendText(append(b, `],"resource":{"type":`...), g.Resource.Type)
	b = appendText(append(b, `,"namespace":`...), g.Resource.Namespace)
	if g.Resource.Name != "" {
		b = appendText(append(b, `,"name":`...), g.Resource.Name)
	}
	return append(b, '}', '}')
}

func appendText(b []byte, text string) []byte {
	return append(append(append(b, '"'), text...), '"')
}

// parsePayload is the inverse of appendPayload; ok is false for anything else. The claims' strings are parts of text.
func parsePayload(text string) (c Claims, ok bool) {
	r := &payloadReader{rest: text}
	c.Issuer = r.member(`{"iss":`)
	subject, err := identity.ParsePrincipal(r.member(`,"sub":`))
	c.Subject = subject
	c.Audience = r.member(`,"aud":`)
	c.IssuedAt = r.number(`,"iat":`, math.MaxInt64)
	c.NotUntil = r.number(`,"nbf":`, math.MaxInt64)
	c.Expires = r.number(`,"exp":`, math.MaxInt64)
	c.ID = r.member(`,"jti":`)
	c.Binding.Certificate = r.member(`,"cnf":{"x5t#S256":`)
	r.literal(`}`)
	c.Epoch = uint64(r.number(`,"epoch":`, math.MaxInt64))
	c.Grants = r.grants()
	if r.next(`,"max_uses":`) {
		c.MaxUses = uint32(r.number("", math.MaxUint32))
		r.bad = r.bad || c.MaxUses == 0
	}
	r.literal(`}`)
	if r.bad || r.rest != "" || err != nil {
		return Claims{}, false
	}
	return c, true
}

func (r *payloadReader) grants() (all []Grant) {
	r.literal(`,"authorization_details":[`)
	for !r.bad {
		if len(all) == maxGrants {
			r.bad = true
			return nil
		}
		all = append(all, r.grant())
		if !r.next(`,`) {
			break
		}
	}
	r.literal(`]`)
	return all
}

func (r *payloadReader) grant() (g Grant) {
	g.Type = r.member(`{"type":`)
	r.bad = r.bad || g.Type != detailType
	r.literal(`,"actions":[`)
	for !r.bad {
		g.Actions = append(g.Actions, r.member(""))
		r.bad = r.bad || len(g.Actions) > maxActions
		if !r.next(`,`) {
			break
		}
	}
	g.Resource.Type = r.member(`],"resource":{"type":`)
	g.Resource.Namespace = r.member(`,"namespace":`)
	if r.next(`,"name":`) {
		g.Resource.Name = r.member("")
		r.bad = r.bad || g.Resource.Name == ""
	}
	r.literal(`}}`)
	return g
}

// payloadReader takes a payload apart from its start. Once something is not as it must be, it is bad for good.
type payloadReader struct {
	rest string
	bad  bool
}

// next takes a literal if it comes next.
func (r *payloadReader) next(literal string) bool {
	rest, ok := strings.CutPrefix(r.rest, literal)
	r.rest = rest
	return ok && !r.bad
}

func (r *payloadReader) literal(text string) { r.bad = !r.next(text) || r.bad }

// member takes a literal and the string after it.
func (r *payloadReader) member(literal string) string {
	r.literal(literal)
	r.literal(`"`)
	text, rest, ok := strings.Cut(r.rest, `"`)
	if r.bad || !ok || !plain(text) {
		r.bad = true
		return ""
	}
	r.rest = rest
	return text
}

// number takes a literal and the whole number after it, at most limit.
func (r *payloadReader) number(literal string, limit uint64) int64 {
	r.literal(literal)
	digits := 0
	for digits < len(r.rest) && r.rest[digits] >= '0' && r.rest[digits] <= '9' {
		digits++
	}
	text := r.rest[:digits]
	n, err := strconv.ParseUint(text, 10, 64)
	if r.bad || err != nil || n > limit || len(text) > 1 && text[0] == '0' {
		r.bad = true
		return 0
	}
	r.rest = r.rest[digits:]
	return int64(n)
}
