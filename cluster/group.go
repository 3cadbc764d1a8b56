package cluster

import (
	"encoding/binary"
	"errors"
)

// A group is what a Raft entry holds, the proposals that share it:
//
//	version u8 = 1 | count u32 | count x length u32 | the proposals' bytes
//
// A group of none changes nothing: a leader writes one to learn how far the log was committed before its term.
const (
	groupVersion = 1
	groupHeader  = 5
)

var errGroup = errors.New("raft entry is no group of proposals")

func encodeGroup(entries [][]byte) []byte {
	size := groupHeader + 4*len(entries)
	for _, entry := range entries {
		size += len(entry)
	}
	out := append(make([]byte, 0, size), groupVersion)
	out = binary.BigEndian.AppendUint32(out, uint32(len(entries)))
	for _, entry := range entries {
		out = binary.BigEndian.AppendUint32(out, uint32(len(entry)))
	}
	for _, entry := range entries {
		out = append(out, entry...)
	}
	return out
}

// decodeGroup gives the proposals in data, without copying.
func decodeGroup(data []byte) ([][]byte, error) {
	if len(data) < groupHeader || data[0] != groupVersion {
		return nil, errGroup
	}
	count := int(binary.BigEndian.Uint32(data[1:]))
	lengths := data[groupHeader:]
	if count > groupEntries || len(lengths) < 4*count {
		return nil, errGroup
	}
	rest := lengths[4*count:]
	entries := make([][]byte, count)
	for i := range entries {
		length := uint64(binary.BigEndian.Uint32(lengths[4*i:]))
		if length > uint64(len(rest)) {
			return nil, errGroup
		}
		entries[i], rest = rest[:length:length], rest[length:]
	}
	if len(rest) != 0 {
		return nil, errGroup
	}
	return entries, nil
}
