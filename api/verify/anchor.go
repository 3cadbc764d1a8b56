package verify

import (
	"encoding/binary"
	"time"
)

const (
	anchorVersion = 1
	// MaxAnchor bounds an encoded anchor, in bytes.
	MaxAnchor = MaxCheckpoint + 128
)

// MarshalBinary gives the form in which the cluster keeps an anchor.
func (a *Anchor) MarshalBinary() ([]byte, error) {
	w := writer{}
	w.u8(anchorVersion)
	w.str(&fieldNode, a.Origin.Node)
	w.b = append(w.b, a.Origin.Log[:]...)
	w.u64(a.Size)
	w.b = append(w.b, a.Root[:]...)
	w.time(a.Time)
	if len(a.Note) > MaxCheckpoint {
		w.fail(bad("anchor", "its checkpoint is longer than 4 KiB"))
	}
	if w.err != nil {
		return nil, w.err
	}
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(a.Note)))
	return append(w.b, a.Note...), nil
}

// UnmarshalBinary reads what MarshalBinary writes, and nothing else.
func (a *Anchor) UnmarshalBinary(data []byte) error {
	d := reader{b: data}
	if version := d.u8(); d.err == nil && version != anchorVersion {
		return bad("anchor version", "is unknown: read it with a newer warder")
	}
	read := Anchor{Origin: Origin{Node: d.str(&fieldNode)}}
	copy(read.Origin.Log[:], d.take(len(read.Origin.Log)))
	read.Size = d.u64()
	copy(read.Root[:], d.take(len(read.Root)))
	read.Time = time.Unix(0, int64(d.u64())).UTC()
	length := d.take(2)
	if d.err != nil {
		return d.err
	}
	n := int(binary.BigEndian.Uint16(length))
	if n > MaxCheckpoint || n != len(d.b) {
		return bad("anchor", "its checkpoint has another length than it says")
	}
	if err := checkTime(read.Time); err != nil {
		return err
	}
	if n > 0 {
		read.Note = append([]byte(nil), d.b...)
	}
	*a = read
	return nil
}
