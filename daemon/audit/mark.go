package audit

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"warder/api/verify"
)

const (
	markMagic = "WARDMRK1"
	markSlot  = 72   // magic 8 | log id 8 | sequence 8 | size 8 | root 32 | reserved 4 | crc 4
	markStep  = 4096 // each slot has a disk block of its own
	markBytes = 2 * markStep
)

// position is how far a log goes: its number of entries and the root over them.
type position struct {
	size uint64
	root verify.Hash
}

// mark is the file that says how much was acknowledged at least: two slots written in turn, so that one of them is
// always whole. It follows the segments by Config.MarkEvery and is never ahead of them.
type mark struct {
	file     *os.File
	id       [8]byte
	sequence uint64
	at       position
	repaired bool // one slot was unreadable: a torn write, or a flipped byte
}

func (m *mark) encode() []byte {
	b := make([]byte, 0, markSlot)
	b = append(b, markMagic...)
	b = append(b, m.id[:]...)
	b = binary.BigEndian.AppendUint64(b, m.sequence)
	b = binary.BigEndian.AppendUint64(b, m.at.size)
	b = append(b, m.at.root[:]...)
	b = binary.BigEndian.AppendUint32(b, 0)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeSlot(b []byte) (m mark, ok bool) {
	if len(b) != markSlot || string(b[:8]) != markMagic ||
		crc32.Checksum(b[:markSlot-4], castagnoli) != binary.BigEndian.Uint32(b[markSlot-4:]) {
		return mark{}, false
	}
	copy(m.id[:], b[8:16])
	m.sequence = binary.BigEndian.Uint64(b[16:24])
	m.at.size = binary.BigEndian.Uint64(b[24:32])
	copy(m.at.root[:], b[32:64])
	return m, true
}

// createMark writes the mark of a new, empty log, durably, under a temporary name first.
func createMark(path string, id [8]byte) error {
	var empty verify.Tree
	m := mark{id: id, at: position{root: empty.Root()}}
	content := make([]byte, markBytes)
	for range 2 {
		copy(content[int(m.sequence%2)*markStep:], m.encode())
		m.sequence++
	}
	return writeFileSync(path, content)
}

// readMark reads both slots and takes the later good one.
func readMark(file *os.File) (*mark, error) {
	content := make([]byte, markBytes)
	n, err := file.ReadAt(content, 0)
	if n != markBytes {
		if err != nil && n == 0 && !isEOF(err) {
			return nil, err
		}
		return nil, &Damage{"mark", int64(n), 0, "the file is cut"}
	}
	a, okA := decodeSlot(content[:markSlot])
	b, okB := decodeSlot(content[markStep : markStep+markSlot])
	best := a
	switch {
	case !okA && !okB:
		return nil, &Damage{"mark", 0, 0, "neither slot is readable"}
	case okA && okB && a.id != b.id:
		return nil, &Damage{"mark", 0, 0, "the slots are of different logs"}
	case !okA || okB && b.sequence > a.sequence:
		best = b
	}
	best.file, best.repaired = file, !okA || !okB
	return &best, nil
}

// write stores a new position in the slot that is not the latest. It does not sync.
func (m *mark) write(at position) error {
	next := mark{id: m.id, sequence: m.sequence + 1, at: at}
	if _, err := m.file.WriteAt(next.encode(), int64(next.sequence%2)*markStep); err != nil {
		return err
	}
	m.sequence, m.at = next.sequence, at
	return nil
}

// lock takes the log for this process; the kernel gives it back when the process ends.
func (m *mark) lock() error {
	err := unix.Flock(int(m.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// keepMarked lets the mark follow while the log grows.
func (l *Log) keepMarked() {
	timer := time.NewTimer(l.cfg.MarkEvery)
	defer timer.Stop()
	for {
		select {
		case <-l.quit:
			return
		case <-l.behind:
		}
		timer.Reset(l.cfg.MarkEvery)
		select {
		case <-l.quit:
			return
		case <-timer.C:
		}
		if err := l.markNow(); err != nil {
			_ = l.latch(err) // nobody waits here: callers and Healthy see it
			return
		}
	}
}

// markNow makes the mark say what is committed, durably.
func (l *Log) markNow() error {
	l.marking.Lock()
	defer l.marking.Unlock()
	at := *l.committed.Load()
	if at.size <= l.mark.at.size {
		return nil
	}
	if err := l.cfg.probe("write mark"); err != nil {
		return err
	}
	if err := l.mark.write(at); err != nil {
		return err
	}
	if err := l.cfg.probe("sync mark"); err != nil {
		return err
	}
	return dataSync(l.mark.file)
}
