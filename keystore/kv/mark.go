package kv

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	markName    = "mark"
	markMagic   = "WDRMARK1"
	maxMarkSize = 16 << 20
)

// mark is what the mark file says: which generation of the store is the one
// that counts, and a state that this generation must have reached. After a
// clean stop it also lists every file of the generation with its hash.
type mark struct {
	generation uint64
	state      state
	files      []fileSum // nil while the store is open
}

// fileSum is the size and SHA-256 of one file of a closed generation.
type fileSum struct {
	name string
	size uint64
	hash [sha256.Size]byte
}

func (m mark) encode() []byte {
	b := append([]byte(nil), markMagic...)
	b = binary.BigEndian.AppendUint64(b, m.generation)
	b = m.state.appendTo(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.files)))
	for _, f := range m.files {
		b = append(append(b, byte(len(f.name))), f.name...)
		b = binary.BigEndian.AppendUint64(b, f.size)
		b = append(b, f.hash[:]...)
	}
	d := sha256.Sum256(b)
	return append(b, d[:]...)
}

func decodeMark(b []byte) (mark, error) {
	n := len(b) - sha256.Size
	if n < 0 {
		return mark{}, errShort
	}
	if d := sha256.Sum256(b[:n]); !bytes.Equal(d[:], b[n:]) {
		return mark{}, errors.New("the hash does not match")
	}
	r := reader{rest: b[:n]}
	if string(r.take(len(markMagic))) != markMagic {
		return mark{}, errors.New("not a mark file of this version")
	}
	m := mark{generation: r.u64(), state: r.state()}
	files := int(r.u32())
	if r.bad || files > len(r.rest)/(1+8+sha256.Size) {
		return mark{}, errShort
	}
	m.files = decodeEach(&r, files, func() fileSum {
		f := fileSum{name: string(r.take(int(r.u8()))), size: r.u64()}
		copy(f.hash[:], r.take(sha256.Size))
		return f
	})
	if r.bad || len(r.rest) != 0 {
		return mark{}, errShort
	}
	return m, nil
}

// readMark reads the mark of the store in dir; the error is fs.ErrNotExist when
// there is none.
func readMark(dir string) (mark, error) {
	name := filepath.Join(dir, markName)
	info, err := os.Stat(name)
	if err != nil {
		return mark{}, err
	}
	if info.Size() > maxMarkSize {
		return mark{}, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, name, info.Size())
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return mark{}, err
	}
	m, err := decodeMark(b)
	if err != nil {
		return mark{}, fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	return m, nil
}

// write replaces the mark of the store in dir, durably: when it returns nil, a
// loss of power leaves the new mark, and before that the old one.
func (m mark) write(dir string) error {
	name := filepath.Join(dir, markName)
	if err := writeSynced(name+".new", m.encode()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncPath(dir)
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncPath fsyncs one file or directory.
func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// sumFiles hashes every file of a closed generation and fsyncs it.
func sumFiles(dir string) ([]fileSum, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sums := make([]fileSum, 0, len(entries))
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		f, err := sumFile(name)
		if err != nil {
			return nil, err
		}
		if err := syncPath(name); err != nil {
			return nil, err
		}
		sums = append(sums, f)
	}
	return sums, syncPath(dir)
}

func sumFile(name string) (fileSum, error) {
	f, err := os.Open(name)
	if err != nil {
		return fileSum{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fileSum{}, err
	}
	s := fileSum{name: filepath.Base(name), size: uint64(n)}
	h.Sum(s.hash[:0])
	return s, nil
}

// checkFiles holds the files of a generation that was closed cleanly to what
// was written down then.
func (m mark) checkFiles(dir string) error {
	for _, want := range m.files {
		name := filepath.Join(dir, want.name)
		got, err := sumFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %s is missing", ErrDamaged, name)
		case err != nil:
			return fmt.Errorf("%w: %s cannot be read: %w", ErrDamaged, name, err)
		case got.size != want.size:
			return fmt.Errorf("%w: %s has %d bytes, had %d when it was closed", ErrDamaged, name, got.size, want.size)
		case got.hash != want.hash:
			return fmt.Errorf("%w: %s has changed since it was closed", ErrDamaged, name)
		}
	}
	return nil
}
