package logstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A log record:
//
//	version u8 = 1 | type u8 | zero u16 | index u64 | term u64 | appended at, ns since 1970 i64 |
//	extensions length u32 | data length u32 | extensions | data | SHA-256 of all before, first 16 bytes
const (
	recordVersion = 1
	recordHeader  = 36
	recordSum     = 16

	// MaxRecord bounds a record's data and extensions together, in bytes.
	MaxRecord = 32 << 20
)

// AppendRecord adds the encoding of entry to buf.
func AppendRecord(buf []byte, entry *raft.Log) []byte {
	start := len(buf)
	buf = append(buf, recordVersion, byte(entry.Type), 0, 0)
	buf = binary.BigEndian.AppendUint64(buf, entry.Index)
	buf = binary.BigEndian.AppendUint64(buf, entry.Term)
	buf = binary.BigEndian.AppendUint64(buf, uint64(unixNano(entry.AppendedAt)))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(entry.Extensions)))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(entry.Data)))
	buf = append(buf, entry.Extensions...)
	buf = append(buf, entry.Data...)
	sum := sha256.Sum256(buf[start:])
	return append(buf, sum[:recordSum]...)
}

// DecodeRecord reads a record into entry, whose slices are copies. An error wraps ErrDamaged.
func DecodeRecord(record []byte, entry *raft.Log) error {
	if len(record) < recordHeader+recordSum || record[0] != recordVersion {
		return fmt.Errorf("log record of %d bytes has no valid head: %w", len(record), ErrDamaged)
	}
	body, sum := record[:len(record)-recordSum], record[len(record)-recordSum:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:recordSum], sum) {
		return fmt.Errorf("log record's checksum does not match: %w", ErrDamaged)
	}
	extensions := uint64(binary.BigEndian.Uint32(body[28:]))
	data := uint64(binary.BigEndian.Uint32(body[32:]))
	if recordHeader+extensions+data != uint64(len(body)) {
		return fmt.Errorf("log record's lengths do not match: %w", ErrDamaged)
	}
	*entry = raft.Log{
		Type:  raft.LogType(body[1]),
		Index: binary.BigEndian.Uint64(body[4:]),
		Term:  binary.BigEndian.Uint64(body[12:]),
	}
	if at := int64(binary.BigEndian.Uint64(body[20:])); at != 0 {
		entry.AppendedAt = time.Unix(0, at)
	}
	if extensions > 0 {
		entry.Extensions = bytes.Clone(body[recordHeader : recordHeader+extensions])
	}
	if data > 0 {
		entry.Data = bytes.Clone(body[recordHeader+extensions:])
	}
	return nil
}

func unixNano(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixNano()
}
