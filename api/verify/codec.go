package verify

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// MaxRecord bounds an encoded record, in bytes. The fields' own bounds keep every record under it.
const MaxRecord = 16 << 10

const (
	recordVersion = 1
	maxPolicies   = 32
	maxInputs     = 32
)

// alphabet is the set of bytes that a field may hold, one bit for each alphabet in classes.
type alphabet uint8

const (
	lower  alphabet = 1 << iota // [a-z0-9-]
	code                        // [a-z0-9._-]
	word                        // [A-Za-z0-9_-]
	dotted                      // [A-Za-z0-9._-]
	path                        // [A-Za-z0-9._/:#-]
	caller                      // [a-z0-9:/-]
	label                       // [a-z0-9_.]
	print                       // 0x20..0x7e
)

// classes gives, for every byte, the alphabets that hold it.
var classes = func() (table [256]alphabet) {
	for c := range table {
		b := byte(c)
		small := b >= 'a' && b <= 'z' || b >= '0' && b <= '9'
		large := b >= 'A' && b <= 'Z'
		set := func(a alphabet, in bool) {
			if in {
				table[c] |= a
			}
		}
		set(lower, small || b == '-')
		set(code, small || b == '-' || b == '_' || b == '.')
		set(word, small || large || b == '-' || b == '_')
		set(dotted, small || large || b == '-' || b == '_' || b == '.')
		set(path, small || large || b == '-' || b == '_' || b == '.' || b == '/' || b == ':' || b == '#')
		set(caller, small || b == ':' || b == '/' || b == '-')
		set(label, small || b == '_' || b == '.')
		set(print, b >= 0x20 && b <= 0x7e)
	}
	return table
}()

// field is the rule of one string: its name in messages, its alphabet and its bounds in bytes.
type field struct {
	name     string
	allowed  alphabet
	min, max int
}

var (
	fieldRequestID = field{"request id", word, 1, 64}
	fieldNode      = field{"node", lower, 1, 63}
	fieldPrincipal = field{"principal", caller, 0, 160}
	fieldAuthn     = field{"authentication method", lower, 0, 32}
	fieldTokenID   = field{"token id", word, 0, 64}
	fieldMethod    = field{"method", path, 1, 128}
	fieldAction    = field{"action", code, 0, 64}
	fieldType      = field{"resource type", dotted, 0, 64}
	fieldNamespace = field{"resource namespace", lower, 0, 63}
	fieldName      = field{"resource name", dotted, 0, 64}
	fieldReason    = field{"reason", dotted, 0, 64}
	fieldPolicy    = field{"policy", path, 1, 200}
	fieldInput     = field{"input name", label, 1, 64}
	fieldText      = field{"input text", print, 0, 128}
)

func bad(what, rule string) error { return fmt.Errorf("%w: %s: %s", ErrBadRecord, what, rule) }

func (f *field) check(s string) error {
	if len(s) < f.min || len(s) > f.max {
		return bad(f.name, fmt.Sprintf("needs %d to %d bytes, has %d", f.min, f.max, len(s)))
	}
	all := f.allowed
	for i := range len(s) {
		all &= classes[s[i]]
	}
	if all != f.allowed {
		return bad(f.name, "holds a byte outside its alphabet")
	}
	return nil
}

// AppendBinary appends the canonical encoding to b. The encoding of a record is unique, so equal records have
// equal leaves. It fails with [ErrBadRecord] and then returns b as it was.
func (r *Record) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u8(recordVersion)
	w.time(r.Time)
	w.str(&fieldRequestID, r.RequestID)
	w.str(&fieldNode, r.Node)
	w.str(&fieldPrincipal, r.Principal)
	w.str(&fieldAuthn, r.Authn)
	w.certificate(&r.Certificate)
	w.str(&fieldTokenID, r.TokenID)
	w.str(&fieldMethod, r.Method)
	w.str(&fieldAction, r.Action)
	w.str(&fieldType, r.Resource.Type)
	w.str(&fieldNamespace, r.Resource.Namespace)
	w.str(&fieldName, r.Resource.Name)
	w.fail(checkDecision(r.Decision, r.Reason))
	w.u8(uint8(r.Decision))
	w.str(&fieldReason, r.Reason)
	w.policies(r.Policies)
	w.u64(r.PolicyRevision)
	w.inputs(r.Inputs)
	w.remote(r.Remote)
	if w.err != nil {
		return b, w.err
	}
	return w.b, nil
}

// MarshalBinary gives the canonical encoding.
func (r *Record) MarshalBinary() ([]byte, error) { return r.AppendBinary(nil) }

func checkDecision(d Decision, reason string) error {
	if d != Allow && d != Deny {
		return bad("decision", "must be allow or deny")
	}
	if d == Deny && reason == "" {
		return bad("reason", "a denial needs one")
	}
	return nil
}

// writer appends fields and keeps the first error.
type writer struct {
	b   []byte
	err error
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) u8(v uint8)   { w.b = append(w.b, v) }
func (w *writer) u64(v uint64) { w.b = binary.BigEndian.AppendUint64(w.b, v) }

func (w *writer) str(f *field, s string) {
	if err := f.check(s); err != nil {
		w.fail(err)
		return
	}
	w.b = append(append(w.b, uint8(len(s))), s...)
}

func (w *writer) time(t time.Time) {
	if y := t.UTC().Year(); y < 1970 || y > 2261 {
		w.fail(bad("time", "must lie between 1970 and 2261"))
	}
	w.u64(uint64(t.UnixNano()))
}

func (w *writer) certificate(h *CertificateHash) {
	if *h == (CertificateHash{}) {
		w.u8(0)
		return
	}
	w.u8(1)
	w.b = append(w.b, h[:]...)
}

func (w *writer) policies(ids []string) {
	if len(ids) > maxPolicies {
		w.fail(bad("policies", "at most 32"))
		return
	}
	w.u8(uint8(len(ids)))
	for i := range ids {
		if i > 0 && ids[i] <= ids[i-1] {
			w.fail(bad("policies", "must be ascending and distinct"))
		}
		w.str(&fieldPolicy, ids[i])
	}
}

func (w *writer) inputs(inputs []Input) {
	if len(inputs) > maxInputs {
		w.fail(bad("inputs", "at most 32"))
		return
	}
	w.u8(uint8(len(inputs)))
	for i := range inputs {
		if i > 0 && inputs[i].Name <= inputs[i-1].Name {
			w.fail(bad("inputs", "names must be ascending and distinct"))
		}
		w.input(&inputs[i])
	}
}

func (w *writer) input(in *Input) {
	w.str(&fieldInput, in.Name)
	w.u8(uint8(in.Kind))
	other := *in
	switch in.Kind {
	case Text:
		w.str(&fieldText, in.Text)
		other.Text = ""
	case Number:
		w.u64(uint64(in.Number))
		other.Number = 0
	case Flag:
		var v uint8
		if in.Flag {
			v = 1
		}
		w.u8(v)
		other.Flag = false
	default:
		w.fail(bad("input kind", "must be text, number or flag"))
	}
	if other.Text != "" || other.Number != 0 || other.Flag {
		w.fail(bad("input", "has a value of another kind than its own"))
	}
}

func (w *writer) remote(a netip.AddrPort) {
	addr := a.Addr()
	switch {
	case a == netip.AddrPort{}:
		w.u8(0)
		return
	case !addr.IsValid() || addr.Zone() != "" || addr.Is4In6():
		w.fail(bad("remote", "must be an IPv4 or IPv6 address without a zone, not IPv4 mapped into IPv6"))
		return
	case addr.Is4():
		v := addr.As4()
		w.u8(4)
		w.b = append(w.b, v[:]...)
	default:
		v := addr.As16()
		w.u8(16)
		w.b = append(w.b, v[:]...)
	}
	w.b = binary.BigEndian.AppendUint16(w.b, a.Port())
}
