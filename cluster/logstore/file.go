package logstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrDamaged marks a file whose bytes are not what was written: changed, cut, or missing beside others that
// need it. The message names the file and the reason.
var ErrDamaged = errors.New("damaged")

// A sealed file is replaced as a whole:
//
//	"WRDF" | kind u8 | version u8 = 1 | zero u16 | payload length u32 | payload | SHA-256 of all before
const (
	sealedMagic  = "WRDF"
	sealedHeader = 12
	maxSealed    = 1 << 20

	kindMeta   = 1 // raft-wal's list of segments
	kindStable = 2 // term and vote
	// KindMember is the kind of the sealed file in which package cluster keeps a node's standing.
	KindMember = 3
)

func damaged(path, reason string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", path, fmt.Sprintf(reason, args...), ErrDamaged)
}

// WriteSealed replaces the file at path by payload, at most 1 MiB, and returns when the change is durable.
func WriteSealed(path string, kind byte, payload []byte) error {
	if len(payload) > maxSealed {
		return fmt.Errorf("write %s: %d bytes are more than %d", path, len(payload), maxSealed)
	}
	data := make([]byte, sealedHeader, sealedHeader+len(payload)+sha256.Size)
	copy(data, sealedMagic)
	data[4], data[5] = kind, 1
	binary.BigEndian.PutUint32(data[8:], uint32(len(payload)))
	data = append(data, payload...)
	sum := sha256.Sum256(data)
	return replaceFile(path, append(data, sum[:]...))
}

// ReadSealed gives the payload of a sealed file: an error that wraps fs.ErrNotExist where there is no file,
// ErrDamaged where its bytes are not what was written.
func ReadSealed(path string, kind byte) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return openSealed(path, kind, data)
}

func openSealed(path string, kind byte, data []byte) ([]byte, error) {
	if len(data) < sealedHeader+sha256.Size || string(data[:4]) != sealedMagic {
		return nil, damaged(path, "not a sealed file")
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, damaged(path, "checksum does not match")
	}
	if body[4] != kind || body[5] != 1 {
		return nil, damaged(path, "kind %d version %d, want kind %d version 1", body[4], body[5], kind)
	}
	if int(binary.BigEndian.Uint32(body[8:])) != len(body)-sealedHeader {
		return nil, damaged(path, "length does not match")
	}
	return body[sealedHeader:], nil
}

// replaceFile writes beside, syncs, renames and syncs the folder: a crash leaves the old file or the new one.
func replaceFile(path string, data []byte) error {
	temp := path + ".tmp"
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
