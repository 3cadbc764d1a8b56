package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is a question to a member, or its answer, on a stream of protocol transport.Forward:
//
//	length of the rest u32 | kind u8 | id u64 | body
//
// An answer has the id of its question, and a status as its kind. Answers come in any order.
type frame struct {
	kind byte
	id   uint64
	body []byte
}

const (
	frameHeader = 4 + 1 + 8
	maxBody     = MaxEntry + 64
)

// Kinds of questions. The list only grows.
const (
	askPropose   = 1 // entry -> place | result
	askReadIndex = 2 // -> place
	askTerm      = 3 // -> term u64
	askStatus    = 4 // -> status
	askDemoted   = 5 // incarnation 16 bytes | index u64
	askAdmit     = 6 // id length u8 | id | host:port
	askRemove    = 7 // id
	askStepDown  = 8
	askDiverged  = 9  // index u64: your state differs from the majority's
	askClock     = 10 // -> ns since 1970 u64
	askProcess   = 11 // -> 16 bytes that this process alone has
)

// Statuses of answers. The list only grows.
const (
	saysDone       = 0
	saysNoLeader   = 1
	saysUnknown    = 2
	saysOverloaded = 3
	saysTooLarge   = 4
	saysFailed     = 5 // body: the reason
	saysNotMember  = 6
	saysLastVoter  = 7
	saysGoodbye    = 8 // id 0: questions without an answer until now were not read
)

var statuses = map[byte]error{saysNoLeader: ErrNoLeader, saysUnknown: ErrOutcomeUnknown, saysOverloaded: ErrOverloaded,
	saysTooLarge: ErrTooLarge, saysNotMember: ErrNotMember, saysLastVoter: ErrLastVoter}

var errFrame = errors.New("frame is malformed")

func appendFrame(buf []byte, f frame) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(frameHeader-4+len(f.body)))
	buf = append(buf, f.kind)
	buf = binary.BigEndian.AppendUint64(buf, f.id)
	return append(buf, f.body...)
}

// readHead reads a frame up to its body, and gives the body's length.
func readHead(r io.Reader) (frame, int, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, 0, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length < frameHeader-4 || length > frameHeader-4+maxBody {
		return frame{}, 0, fmt.Errorf("length %d: %w", length, errFrame)
	}
	return frame{kind: head[4], id: binary.BigEndian.Uint64(head[5:])}, int(length) - (frameHeader - 4), nil
}

func readFrame(r io.Reader) (frame, error) {
	f, length, err := readHead(r)
	if err != nil {
		return f, err
	}
	f.body = make([]byte, length)
	_, err = io.ReadFull(r, f.body)
	return f, err
}

// answerOf turns a handler's outcome into an answer's status and body.
func answerOf(body []byte, err error) (byte, []byte) {
	if err == nil {
		return saysDone, body
	}
	for _, status := range []byte{saysUnknown, saysNoLeader, saysOverloaded, saysTooLarge, saysNotMember, saysLastVoter} {
		if errors.Is(err, statuses[status]) {
			return status, nil
		}
	}
	return saysFailed, []byte(err.Error())
}

// errorOf is the reverse. Anything that is not known to have done nothing has an unknown outcome.
func errorOf(f frame) error {
	if f.kind == saysDone {
		return nil
	}
	if err, known := statuses[f.kind]; known {
		return err
	}
	return fmt.Errorf("the leader answers %q: %w", f.body, ErrOutcomeUnknown)
}

func indexBody(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

func bodyIndex(body []byte) (uint64, []byte, error) {
	if len(body) < 8 {
		return 0, nil, errFrame
	}
	return binary.BigEndian.Uint64(body), body[8:], nil
}

// place is an entry's in the log: its index u64 and the term u64 in which it was proposed. No two entries share one (Raft,
// section 5.3).
type place struct{ index, term uint64 }

func (p place) body() []byte { return binary.BigEndian.AppendUint64(indexBody(p.index), p.term) }

func bodyPlace(body []byte) (place, []byte, error) {
	index, rest, err := bodyIndex(body)
	if err != nil {
		return place{}, nil, err
	}
	term, rest, err := bodyIndex(rest)
	return place{index, term}, rest, err
}

// status is what a member says of itself.
type status struct {
	incarnation [16]byte
	outside     bool
	demoted     uint64
	last        uint64 // newest log entry
	samples     []sample
}

func (s status) encode() []byte {
	out := append(s.incarnation[:len(s.incarnation):len(s.incarnation)], 0)
	if s.outside {
		out[16] = 1
	}
	out = binary.BigEndian.AppendUint64(out, s.demoted)
	out = binary.BigEndian.AppendUint64(out, s.last)
	for _, one := range s.samples {
		out = binary.BigEndian.AppendUint64(out, one.index)
		out = append(out, one.hash[:]...)
	}
	return out
}

func decodeStatus(body []byte) (status, error) {
	const head = 16 + 1 + 8 + 8
	if len(body) < head || (len(body)-head)%40 != 0 || len(body) > head+40*2*sampleCount {
		return status{}, errFrame
	}
	s := status{outside: body[16] != 0, demoted: binary.BigEndian.Uint64(body[17:]), last: binary.BigEndian.Uint64(body[25:])}
	copy(s.incarnation[:], body)
	for rest := body[head:]; len(rest) > 0; rest = rest[40:] {
		s.samples = append(s.samples, sample{binary.BigEndian.Uint64(rest), [32]byte(rest[8:40])})
	}
	return s, nil
}
