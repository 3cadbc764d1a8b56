package keystore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// recordVersion is the first byte of an entry's record.
const recordVersion = 2

// Sizes, in bytes.
const (
	entryHead   = 1 + 2 + 2 // version, length of info, count of versions
	versionHead = 4 + 1 + 3*8 + 2
)

// size is the length of the entry's record.
func (e Entry) size() int {
	n := entryHead + len(e.Info)
	for i := range e.Versions {
		n += versionHead + len(e.Versions[i].Info)
	}
	return n
}

// encode gives the entry's record:
//
//	version u8 | info u16+bytes | count u16 | count × version
//	version    number u32 | state u8 | created i64 | retired i64 | destroyed i64 | info u16+bytes
//
// Times are nanoseconds since 1970 UTC, 0 for never.
func (e Entry) encode() ([]byte, error) {
	out := append(make([]byte, 0, e.size()), recordVersion)
	out = appendInfo(out, e.Info)
	out = binary.BigEndian.AppendUint16(out, uint16(len(e.Versions)))
	for _, v := range e.Versions {
		if !v.sound() {
			return nil, fmt.Errorf("store version %d of %s: a time is not between 1970 and 2262, check the clock", v.Number, e.Ref)
		}
		out = append(binary.BigEndian.AppendUint32(out, v.Number), byte(v.State))
		for _, at := range []time.Time{v.Created, v.Retired, v.Destroyed} {
			out = binary.BigEndian.AppendUint64(out, uint64(nanoseconds(at)))
		}
		out = appendInfo(out, v.Info)
	}
	return out, nil
}

func appendInfo(out, info []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(info))), info...)
}

// sound reports whether the version's times can be stored and are those that its state has.
func (v Version) sound() bool {
	gone := v.State == Retired || v.State == Destroyed
	return v.Number != 0 && v.State >= Pending && v.State <= Destroyed && storable(v.Created) &&
		gone == !v.Retired.IsZero() && (!gone || storable(v.Retired)) &&
		(v.State == Destroyed) == !v.Destroyed.IsZero() && (v.State != Destroyed || storable(v.Destroyed))
}

// storable reports whether nanoseconds says the time exactly.
func storable(at time.Time) bool {
	const last = 1<<63/1_000_000_000 - 1 // in seconds
	return at.Unix() >= 0 && at.Unix() <= last && at.UnixNano() != 0
}

func nanoseconds(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixNano()
}

func moment(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns)).UTC()
}

// decode reads what encode gave, and nothing else. The entry shares memory with the record.
func decode(ref Ref, record []byte, revision uint64) (Entry, error) {
	r := &reader{rest: record}
	r.bad = r.uint(1) != recordVersion
	e := Entry{Ref: ref, Info: r.info(), Revision: revision}
	count := int(r.uint(2))
	if r.bad || count > MaxVersions || count*versionHead > len(r.rest) {
		return Entry{}, fmt.Errorf("%w: %s does not parse", ErrDamaged, ref)
	}
	e.Versions = make([]Version, 0, count)
	for range count {
		e.Versions = append(e.Versions, r.version())
	}
	if r.bad || len(r.rest) != 0 || !e.sound() {
		return Entry{}, fmt.Errorf("%w: the versions of %s do not parse", ErrDamaged, ref)
	}
	e.retired = e.hasRetired()
	return e, nil
}

// sound reports whether the versions ascend and at most one is active.
func (e Entry) sound() bool {
	active := 0
	for i, v := range e.Versions {
		if !v.sound() || i > 0 && v.Number <= e.Versions[i-1].Number {
			return false
		}
		if v.State == Active {
			active++
		}
	}
	return active <= 1
}

// reader takes fields from the front of rest. After the first that is not there, bad is set and every field is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) uint(size int) (v uint64) {
	for _, b := range r.take(size) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (r *reader) info() []byte {
	n := int(r.uint(2))
	r.bad = r.bad || n > MaxInfo
	return slices.Clip(r.take(n))
}

func (r *reader) version() Version {
	return Version{
		Number: uint32(r.uint(4)), State: State(r.uint(1)),
		Created: moment(r.uint(8)), Retired: moment(r.uint(8)), Destroyed: moment(r.uint(8)),
		Info: r.info(),
	}
}
