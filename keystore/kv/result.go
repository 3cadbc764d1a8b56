package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Status says what became of a batch.
type Status byte

// The statuses. They are on the wire between nodes; they never change.
const (
	StatusOK        Status = 1 // every change was made
	StatusConflict  Status = 2 // a precondition did not hold; nothing was changed
	StatusLimit     Status = 3 // an Add would have passed its limit; nothing was changed
	StatusMalformed Status = 4 // the entry is not a batch; nothing was changed
	StatusReplayed  Status = 5 // the entry had been applied before; its result is not known any more
	StatusStaleKey  Status = 6 // a value is sealed under a data key below the floor; nothing was changed
)

// String returns the status's name.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusConflict:
		return "conflict"
	case StatusLimit:
		return "limit"
	case StatusMalformed:
		return "malformed"
	case StatusReplayed:
		return "replayed"
	case StatusStaleKey:
		return "stale key"
	default:
		return fmt.Sprintf("status %d", byte(s))
	}
}

// Result is what applying one batch gave. docs/formats.md, "Result", draws the
// bytes.
type Result struct {
	Status   Status
	Revision uint64   // of the batch, when it was accepted
	Failed   int      // index of the If (conflict) or the Add (limit) that refused it
	Appended []uint64 // the index of each Append
	Counters []int64  // the value after each Add
}

const resultVersion = 1

var errResult = errors.New("malformed result of a batch")

// Encode returns the result's bytes.
func (r Result) Encode() []byte {
	b := make([]byte, 0, 18+8*(len(r.Appended)+len(r.Counters)))
	b = append(b, resultVersion, byte(r.Status))
	b = binary.BigEndian.AppendUint64(b, r.Revision)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Failed))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Appended)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Counters)))
	for _, v := range r.Appended {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, v := range r.Counters {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}

// DecodeResult reads what [Result.Encode] gave.
func DecodeResult(data []byte) (Result, error) {
	r := reader{rest: data}
	version := r.u8()
	out := Result{Status: Status(r.u8()), Revision: r.u64(), Failed: int(r.u16())}
	appended, counters := int(r.u16()), int(r.u16())
	if r.bad || version != resultVersion || 8*(appended+counters) != len(r.rest) {
		return Result{}, fmt.Errorf("%w: %d bytes, version %d", errResult, len(data), version)
	}
	if out.Status < StatusOK || out.Status > StatusStaleKey {
		return Result{}, fmt.Errorf("%w: %v", errResult, out.Status)
	}
	out.Appended = decodeEach(&r, appended, r.u64)
	out.Counters = decodeEach(&r, counters, func() int64 { return int64(r.u64()) })
	return out, nil
}
