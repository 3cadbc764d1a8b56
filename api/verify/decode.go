package verify

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// UnmarshalBinary reads a canonical encoding. Anything that MarshalBinary would not have written is [ErrBadRecord]:
// a later version, a length or alphabet out of bounds, a wrong order, bytes left over.
func (r *Record) UnmarshalBinary(data []byte) error {
	if len(data) > MaxRecord {
		return bad("record", "is longer than 16 KiB")
	}
	d := reader{b: data}
	if version := d.u8(); d.err == nil && version != recordVersion {
		return bad("record version", "is unknown: read it with a newer warder")
	}
	read := Record{
		Time:        time.Unix(0, int64(d.u64())).UTC(),
		RequestID:   d.str(&fieldRequestID),
		Node:        d.str(&fieldNode),
		Principal:   d.str(&fieldPrincipal),
		Authn:       d.str(&fieldAuthn),
		Certificate: d.certificate(),
		TokenID:     d.str(&fieldTokenID),
		Method:      d.str(&fieldMethod),
		Action:      d.str(&fieldAction),
		Resource: Resource{
			Type:      d.str(&fieldType),
			Namespace: d.str(&fieldNamespace),
			Name:      d.str(&fieldName),
		},
		Decision:       Decision(d.u8()),
		Reason:         d.str(&fieldReason),
		Policies:       d.policies(),
		PolicyRevision: d.u64(),
		Inputs:         d.inputs(),
		Remote:         d.remote(),
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail(bad("record", "has bytes left over"))
	}
	if d.err == nil {
		d.fail(checkTime(read.Time))
		d.fail(checkDecision(read.Decision, read.Reason))
	}
	if d.err != nil {
		return d.err
	}
	*r = read
	return nil
}

func checkTime(t time.Time) error {
	if t.Year() < 1970 || t.Year() > 2261 {
		return bad("time", "must lie between 1970 and 2261")
	}
	return nil
}

// reader takes fields from the front of b and keeps the first error; after it every field reads as zero.
type reader struct {
	b   []byte
	err error
}

func (d *reader) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *reader) take(n int) []byte {
	if d.err != nil || len(d.b) < n {
		d.fail(bad("record", "ends too early"))
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *reader) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *reader) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *reader) str(f *field) string {
	s := string(d.take(int(d.u8())))
	if d.err != nil {
		return ""
	}
	d.fail(f.check(s))
	return s
}

func (d *reader) certificate() (h CertificateHash) {
	switch d.u8() {
	case 0:
	case 1:
		copy(h[:], d.take(len(h)))
		if d.err == nil && h == (CertificateHash{}) {
			d.fail(bad("certificate", "a zero hash is written as absent"))
		}
	default:
		d.fail(bad("certificate", "is marked neither present nor absent"))
	}
	return h
}

func (d *reader) policies() []string {
	n := int(d.u8())
	if n > maxPolicies {
		d.fail(bad("policies", "at most 32"))
	}
	var ids []string
	for i := 0; i < n && d.err == nil; i++ {
		ids = append(ids, d.str(&fieldPolicy))
		if i > 0 && ids[i] <= ids[i-1] {
			d.fail(bad("policies", "must be ascending and distinct"))
		}
	}
	return ids
}

func (d *reader) inputs() []Input {
	n := int(d.u8())
	if n > maxInputs {
		d.fail(bad("inputs", "at most 32"))
	}
	var inputs []Input
	for i := 0; i < n && d.err == nil; i++ {
		inputs = append(inputs, d.input())
		if i > 0 && inputs[i].Name <= inputs[i-1].Name {
			d.fail(bad("inputs", "names must be ascending and distinct"))
		}
	}
	return inputs
}

func (d *reader) input() Input {
	in := Input{Name: d.str(&fieldInput), Kind: Kind(d.u8())}
	switch in.Kind {
	case Text:
		in.Text = d.str(&fieldText)
	case Number:
		in.Number = int64(d.u64())
	case Flag:
		v := d.u8()
		if v > 1 {
			d.fail(bad("input flag", "must be 0 or 1"))
		}
		in.Flag = v == 1
	default:
		d.fail(bad("input kind", "must be text, number or flag"))
	}
	return in
}

func (d *reader) remote() netip.AddrPort {
	n := d.u8()
	if n == 0 {
		return netip.AddrPort{}
	}
	if n != 4 && n != 16 {
		d.fail(bad("remote", "must have 0, 4 or 16 bytes"))
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(d.take(int(n)))
	port := d.take(2)
	if d.err != nil {
		return netip.AddrPort{}
	}
	if addr.Is4In6() {
		d.fail(bad("remote", "is an IPv4 address mapped into IPv6"))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
}
