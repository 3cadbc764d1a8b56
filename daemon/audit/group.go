package audit

import (
	"encoding/binary"

	"warder/api/verify"
)

// group is what one fsync makes durable.
type group struct {
	first  uint64
	frames []byte
	leaves []verify.Hash
	places []place       // offsets relative to the group
	taken  chan struct{} // closed when the writer has it; nil while nobody waits for that
	done   chan struct{} // closed when it is durable, or failed
	err    error         // set before done is closed
}

func newGroup(first uint64) *group {
	return &group{first: first, done: make(chan struct{})}
}

// room gives a written group's memory, which nobody looks at any more, to the next; what a burst made large it lets go.
func (g *group) room() group {
	if cap(g.frames) > maxSpare {
		return group{}
	}
	return group{frames: g.frames[:0], leaves: g.leaves[:0]}
}

// maxSpare bounds the memory that is kept for the next group, in bytes.
const maxSpare = 256 << 10

func (g *group) add(index uint64, leaf []byte, hash verify.Hash, sum uint32) {
	if index%indexEvery == 0 {
		g.places = append(g.places, place{index, int64(len(g.frames))})
	}
	g.frames = binary.BigEndian.AppendUint32(g.frames, uint32(len(leaf)))
	g.frames = binary.BigEndian.AppendUint32(g.frames, frameSum(sum, index))
	g.frames = append(g.frames, leaf...)
	g.leaves = append(g.leaves, hash)
}

// end appends the footer: the log's position once the group is durable.
func (g *group) end(id [8]byte, at position) {
	g.frames = footer{at, uint32(len(g.frames))}.append(g.frames, id)
}

// whenTaken gives a channel that is closed when the writer takes the group; the log's mu is held.
func (g *group) whenTaken() <-chan struct{} {
	if g.taken == nil {
		g.taken = make(chan struct{})
	}
	return g.taken
}
