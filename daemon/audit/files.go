package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"warder/api/verify"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// writeFileSync replaces a file so that after a crash it is either the old one or the whole new one.
func writeFileSync(path string, content []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// dataSync flushes a file's content (fdatasync) and notices that the file is no longer in any directory.
func dataSync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("fdatasync %s: %w", f.Name(), err)
		}
		return present(f)
	}
}

// present says whether the open file is still in a directory.
func present(f *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return fmt.Errorf("fstat %s: %w", f.Name(), err)
	}
	if stat.Nlink == 0 {
		return fmt.Errorf("%s was removed", f.Name())
	}
	return nil
}

// sameFile says whether the open file is still the one that its name leads to.
func sameFile(f *os.File) error {
	open, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(f.Name())
	if err != nil {
		return err
	}
	if !os.SameFile(open, named) {
		return fmt.Errorf("%s was replaced", f.Name())
	}
	return nil
}

// hashFile is the tree's nodes at 32 bytes each, in the order of tlog.StoredHashIndex. It is derived from the
// segments: written without waiting for the disk, compared and repaired when the log is read through.
type hashFile struct{ file *os.File }

var _ tlog.HashReader = hashFile{}

// ReadHashes implements tlog.HashReader.
func (h hashFile) ReadHashes(indexes []int64) ([]verify.Hash, error) {
	hashes := make([]verify.Hash, len(indexes))
	for i, index := range indexes {
		if _, err := h.file.ReadAt(hashes[i][:], index*tlog.HashSize); err != nil {
			return nil, fmt.Errorf("reading node %d of the audit tree: %w", index, err)
		}
	}
	return hashes, nil
}

// read fills hashes from the node at index; those past the end of the file stay zero.
func (h hashFile) read(index int64, hashes []verify.Hash) error {
	b := make([]byte, len(hashes)*tlog.HashSize)
	n, err := h.file.ReadAt(b, index*tlog.HashSize)
	if err != nil && !isEOF(err) {
		return err
	}
	for i := range n / tlog.HashSize {
		copy(hashes[i][:], b[i*tlog.HashSize:])
	}
	return nil
}

func (h hashFile) write(index int64, hashes []verify.Hash) error {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	_, err := h.file.WriteAt(b, index*tlog.HashSize)
	return err
}
