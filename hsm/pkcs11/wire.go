package pkcs11

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"warder/hsm"
)

// A frame on the socket pair, in both directions; integers are big-endian:
//
//	length u32 (of what follows) | id u32 | code u8 | field*      field = length u32 | bytes
//
// In a request code is the operation, in an answer the status. Answers come in any order, by id.
const (
	frameHeader = 4 + 1
	maxFrame    = 64 << 10
	maxFields   = 16
)

// operation is what the parent asks of the child.
type operation uint8

const (
	opOpen        operation = iota + 1 // module, label, serial, init, pin, sessions u8, known keys (keys.encode) -> label, serial, manufacturer, model, hash, custody, detail
	opCheck                            // -> nothing
	opCreateRoot                       // label -> SPKI
	opFindRoot                         // fingerprint -> SPKI
	opDestroyRoot                      // fingerprint -> nothing
	opDecrypt                          // fingerprint, ciphertext -> plaintext
	opNodeKey                          // -> SPKI
	opSign                             // digest -> signature
	opCreateKEK                        // id -> nothing
	opHasKEK                           // id -> yes or no
	opTransport                        // -> SPKI
	opExportKEK                        // id, SPKI -> wrapped
	opImportKEK                        // id, wrapped -> nothing
	opGenerate                         // id, algorithm -> SPKI, blob
	opSignWrapped                      // id, algorithm, SPKI, blob, digest -> signature
)

// fieldsOf is how many fields a request has; an operation that is not here is refused.
func (op operation) fieldsOf() (int, bool) {
	switch op {
	case opOpen:
		return 7, true
	case opCheck, opNodeKey, opTransport:
		return 0, true
	case opCreateRoot, opFindRoot, opDestroyRoot, opSign, opCreateKEK, opHasKEK:
		return 1, true
	case opDecrypt, opExportKEK, opImportKEK, opGenerate:
		return 2, true
	case opSignWrapped:
		return 5, true
	}
	return 0, false
}

// slow: the operation makes keys or starts the module.
func (op operation) slow() bool {
	switch op {
	case opOpen, opCreateRoot, opNodeKey, opTransport, opCreateKEK, opGenerate:
		return true
	}
	return false
}

// repeatable: done twice it does no more than once, so that it may be tried again on a new child.
func (op operation) repeatable() bool {
	return op != opCreateRoot && op != opDestroyRoot && op != opCreateKEK
}

// status is 0, or 1 + the place of the error in errorsByStatus. It only grows at its end.
type status uint8

func errorsByStatus() []error {
	return []error{
		hsm.ErrKeyNotFound, hsm.ErrPINRefused, hsm.ErrPINLocked, hsm.ErrModuleMissing, hsm.ErrTokenMissing,
		hsm.ErrMechanism, hsm.ErrTokenFull, hsm.ErrTimeout, hsm.ErrUnavailable, hsm.ErrBadInput,
	}
}

func statusOf(err error) status {
	for i, sentinel := range errorsByStatus() {
		if errors.Is(err, sentinel) {
			return status(i + 1)
		}
	}
	return statusOf(hsm.ErrUnavailable)
}

// err gives the sentinel; a status that this build does not know counts as unavailable.
func (s status) err() error {
	if known := errorsByStatus(); int(s) <= len(known) {
		return known[s-1]
	}
	return hsm.ErrUnavailable
}

type frame struct {
	id     uint32
	code   uint8
	fields [][]byte
}

var errFrame = errors.New("bad frame between daemon and module process")

func (f frame) encode() ([]byte, error) {
	size := frameHeader
	for _, field := range f.fields {
		size += 4 + len(field)
	}
	if size > maxFrame || len(f.fields) > maxFields {
		return nil, fmt.Errorf("%w: too large a request", hsm.ErrBadInput)
	}
	buf := make([]byte, 0, 4+size)
	buf = binary.BigEndian.AppendUint32(buf, uint32(size)) //nolint:gosec // at most maxFrame
	buf = binary.BigEndian.AppendUint32(buf, f.id)
	buf = append(buf, f.code)
	for _, field := range f.fields {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(field))) //nolint:gosec // at most maxFrame
		buf = append(buf, field...)
	}
	return buf, nil
}

// readFrame reads one frame. Its fields share one buffer, which is theirs alone.
func readFrame(r io.Reader) (frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < frameHeader || size > maxFrame {
		return frame{}, fmt.Errorf("%w: length %d", errFrame, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return frame{}, fmt.Errorf("%w: cut short: %w", errFrame, err)
	}
	f := frame{id: binary.BigEndian.Uint32(body), code: body[4]}
	var err error
	f.fields, err = splitFields(body[frameHeader:])
	return f, err
}

func splitFields(rest []byte) ([][]byte, error) {
	var fields [][]byte
	for len(rest) > 0 {
		if len(rest) < 4 || len(fields) == maxFields {
			return nil, errFrame
		}
		size := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; uint64(size) > uint64(len(rest)) {
			return nil, errFrame
		}
		fields = append(fields, rest[:size:size])
		rest = rest[size:]
	}
	return fields, nil
}
