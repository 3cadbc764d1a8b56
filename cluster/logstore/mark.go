package logstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
)

const markName = "mark"

// A mark file has two slots of 4096 bytes, written in turn, so that a write cut short leaves the other:
//
//	"WRDM" | version u8 = 1 | zero u24 | sequence u64 | index u64 | term u64 | SHA-256 of all before
//
// The valid slot with the higher sequence counts. It says that the log reached index, whose entry has term.
const (
	markMagic = "WRDM\x01\x00\x00\x00"
	markSlot  = 4096
	markSize  = 32 + sha256.Size
)

// mark is a durable lower bound of the log's end.
type mark struct {
	path string
	file *os.File

	mu       sync.Mutex // guards all below, and the file
	sequence uint64
	index    uint64
	term     uint64
}

func openMark(dir string, create bool) (*mark, error) {
	m := &mark{path: filepath.Join(dir, markName)}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(m.path, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged(m.path, "missing beside a log")
	}
	if err != nil {
		return nil, err
	}
	m.file = file
	if err := m.load(create); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return m, nil
}

func (m *mark) load(create bool) error {
	data, err := io.ReadAll(io.LimitReader(m.file, 2*markSlot))
	if err != nil {
		return err
	}
	found := false
	for at := 0; at+markSize <= len(data); at += markSlot {
		slot := data[at : at+markSize]
		sum := sha256.Sum256(slot[:32])
		if string(slot[:8]) != markMagic || !bytes.Equal(sum[:], slot[32:]) {
			continue
		}
		if sequence := binary.BigEndian.Uint64(slot[8:]); !found || sequence > m.sequence {
			found = true
			m.sequence, m.index, m.term = sequence, binary.BigEndian.Uint64(slot[16:]), binary.BigEndian.Uint64(slot[24:])
		}
	}
	switch {
	case found:
		return nil
	case create:
		if err := m.write(0, 0); err != nil {
			return err
		}
		return syncDir(filepath.Dir(m.path))
	}
	return damaged(m.path, "no valid slot")
}

// raise moves the mark forward only: a mark lowered meanwhile, before a suffix is deleted, stays low.
func (m *mark) raise(last func() (index, term uint64)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	index, term := last()
	if index <= m.index {
		return nil
	}
	return m.write(index, term)
}

// lower makes sure that the mark is at most index, whose entry has term.
func (m *mark) lower(index, term uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.index <= index {
		return nil
	}
	return m.write(index, term)
}

func (m *mark) write(index, term uint64) error {
	slot := append([]byte(markMagic), make([]byte, 24)...)
	binary.BigEndian.PutUint64(slot[8:], m.sequence+1)
	binary.BigEndian.PutUint64(slot[16:], index)
	binary.BigEndian.PutUint64(slot[24:], term)
	sum := sha256.Sum256(slot)
	at := int64((m.sequence + 1) % 2 * markSlot)
	if _, err := m.file.WriteAt(append(slot, sum[:]...), at); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return err
	}
	m.sequence, m.index, m.term = m.sequence+1, index, term
	return nil
}

func (m *mark) close() error { return m.file.Close() }
