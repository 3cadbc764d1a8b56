package audit

import (
	"encoding/binary"
	"hash/crc32"

	"golang.org/x/mod/sumdb/tlog"
)

// A group is what one fsync made durable: frames, and the footer that says that they are all there.
//
//	0xFFFFFFFF u32 | crc u32 | size u64 | root 32 | bytes u32 | "WEND"
//
// The first field stands where a frame has its length. Size and root are the log's after the group, bytes is the
// length of the group's frames. The checksum is CRC-32C(log id || all after it). The last byte is not zero, so that
// a group whose end is lost is known from one that is whole.
const (
	footerTag   = 0xFFFFFFFF
	footerBytes = 8 + 8 + tlog.HashSize + 4 + 4
	footerEnd   = "WEND"
)

// footer is the end of a group.
type footer struct {
	position
	bytes uint32
}

func (f footer) append(b []byte, id [8]byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, footerTag)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint64(b, f.size)
	b = append(b, f.root[:]...)
	b = binary.BigEndian.AppendUint32(b, f.bytes)
	b = append(b, footerEnd...)
	binary.BigEndian.PutUint32(b[start+4:], footerSum(id, b[start+8:]))
	return b
}

func footerSum(id [8]byte, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(id[:], castagnoli), castagnoli, rest)
}

// decodeFooter reads a footer at the start of b; it is not there unless every byte is right.
func decodeFooter(b []byte, id [8]byte) (f footer, ok bool) {
	if len(b) < footerBytes {
		return footer{}, false
	}
	b = b[:footerBytes]
	if binary.BigEndian.Uint32(b) != footerTag || string(b[footerBytes-len(footerEnd):]) != footerEnd ||
		binary.BigEndian.Uint32(b[4:]) != footerSum(id, b[8:]) {
		return footer{}, false
	}
	f.size = binary.BigEndian.Uint64(b[8:])
	copy(f.root[:], b[16:])
	f.bytes = binary.BigEndian.Uint32(b[16+tlog.HashSize:])
	return f, true
}
