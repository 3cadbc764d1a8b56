package logstore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// A snapshot file, named by its term and index in hexadecimal:
//
//	"WRDS" | version u8 = 1 | zero u24 | index u64 | term u64 | configuration index u64 |
//	configuration length u32 | configuration (hashicorp/raft's encoding) | body | body length u64 |
//	SHA-256 of all before
const (
	snapshotMagic   = "WRDS\x01\x00\x00\x00"
	snapshotHeader  = 36
	snapshotTrailer = 8 + sha256.Size
	snapshotSuffix  = ".snapshot"
	maxServers      = 1 << 20 // bytes of an encoded configuration
)

// Snapshots keeps the newest snapshot as a file. Its hash is verified when it is saved and when it is opened.
type Snapshots struct {
	dir    string
	onFail func(error)
}

var _ raft.SnapshotStore = (*Snapshots)(nil)

// openSnapshots checks every snapshot in dir, and removes what an interrupted save left.
func openSnapshots(dir string, onFail func(error)) (*Snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Snapshots{dir: dir, onFail: onFail}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case strings.HasSuffix(path, ".tmp"):
			err = os.Remove(path)
		case strings.HasSuffix(path, snapshotSuffix):
			err = verifySnapshot(path)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Create begins a snapshot. It is in the list once its sink is closed without error.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, servers raft.Configuration,
	serversIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("create a snapshot: version %d is unknown", version)
	}
	id := fmt.Sprintf("%016x-%016x", term, index)
	file, err := os.OpenFile(filepath.Join(s.dir, id+".tmp"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	sink := &sink{store: s, id: id, file: file, hash: sha256.New()}
	sink.out = bufio.NewWriterSize(io.MultiWriter(file, sink.hash), 1<<18)
	if err := sink.head(index, term, servers, serversIndex); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

// List gives the snapshots, the newest first.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var found []*raft.SnapshotMeta
	for _, entry := range slices.Backward(entries) {
		id, ok := strings.CutSuffix(entry.Name(), snapshotSuffix)
		if !ok {
			continue
		}
		meta, file, err := s.open(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // reaped meanwhile
		}
		if err != nil {
			return nil, err
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
		found = append(found, meta)
	}
	return found, nil
}

// Open verifies the whole snapshot and gives its body. The reader is a *Body.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if err := verifySnapshot(s.path(id)); err != nil {
		if errors.Is(err, ErrDamaged) && s.onFail != nil {
			s.onFail(err)
		}
		return nil, nil, err
	}
	meta, file, err := s.open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, &Body{Index: meta.Index, Servers: meta.Configuration, ServersIndex: meta.ConfigurationIndex, in: io.LimitReader(bufio.NewReaderSize(file, 1<<18), meta.Size), file: file}, nil
}

// Body reads a snapshot's body, whose hash was verified when it was opened.
type Body struct {
	Index        uint64             // the last log entry that the snapshot covers
	Servers      raft.Configuration // as of that entry
	ServersIndex uint64             // the entry that set it
	in           io.Reader
	file         *os.File
}

func (b *Body) Read(p []byte) (int, error) { return b.in.Read(p) }
func (b *Body) Close() error               { return b.file.Close() }

func (s *Snapshots) path(id string) string { return filepath.Join(s.dir, id+snapshotSuffix) }

// open gives a snapshot's head, and its file at the start of the body.
func (s *Snapshots) open(id string) (*raft.SnapshotMeta, *os.File, error) {
	file, err := os.Open(s.path(id))
	if err != nil {
		return nil, nil, err
	}
	meta, err := readHead(file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	meta.ID = id
	return meta, file, nil
}

func readHead(file *os.File) (*raft.SnapshotMeta, error) {
	head := make([]byte, snapshotHeader)
	if _, err := io.ReadFull(file, head); err != nil || string(head[:8]) != snapshotMagic {
		return nil, damaged(file.Name(), "not a snapshot")
	}
	length := binary.BigEndian.Uint32(head[32:])
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - snapshotHeader - int64(length) - snapshotTrailer
	if length > maxServers || size < 0 {
		return nil, damaged(file.Name(), "configuration has a wrong length")
	}
	servers := make([]byte, length)
	if _, err := io.ReadFull(file, servers); err != nil {
		return nil, damaged(file.Name(), "configuration is cut short")
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: binary.BigEndian.Uint64(head[8:]),
		Term: binary.BigEndian.Uint64(head[16:]), ConfigurationIndex: binary.BigEndian.Uint64(head[24:]), Size: size}
	err = guard(file.Name(), func() error { // raft.DecodeConfiguration panics
		meta.Configuration = raft.DecodeConfiguration(servers)
		return nil
	})
	return meta, err
}

// verifySnapshot reads the whole file at path and compares its hash.
func verifySnapshot(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < snapshotHeader+snapshotTrailer {
		return damaged(path, "snapshot of %d bytes is cut short", info.Size())
	}
	digest := sha256.New()
	if _, err := io.CopyN(digest, file, info.Size()-sha256.Size); err != nil {
		return damaged(path, "snapshot cannot be read: %v", err)
	}
	sum := make([]byte, sha256.Size)
	if _, err := io.ReadFull(file, sum); err != nil || !bytes.Equal(sum, digest.Sum(nil)) {
		return damaged(path, "snapshot's hash does not match")
	}
	return nil
}

// sink writes one snapshot.
type sink struct {
	store *Snapshots
	id    string
	file  *os.File
	out   *bufio.Writer
	hash  hash.Hash
	size  uint64 // of the body so far
	over  bool
}

func (k *sink) head(index, term uint64, servers raft.Configuration, serversIndex uint64) error {
	encoded := raft.EncodeConfiguration(servers)
	head := []byte(snapshotMagic)
	for _, v := range []uint64{index, term, serversIndex} {
		head = binary.BigEndian.AppendUint64(head, v)
	}
	head = binary.BigEndian.AppendUint32(head, uint32(len(encoded)))
	_, err := k.out.Write(append(head, encoded...))
	return err
}

func (k *sink) ID() string { return k.id }

func (k *sink) Write(p []byte) (int, error) {
	n, err := k.out.Write(p)
	k.size += uint64(n)
	return n, err
}

// Close makes the snapshot durable, reads it back, gives it its name and removes older ones.
func (k *sink) Close() error {
	if k.over {
		return nil
	}
	if err := k.finish(); err != nil {
		return errors.Join(fmt.Errorf("save snapshot %s: %w", k.id, err), k.Cancel())
	}
	k.over = true
	if err := os.Rename(k.file.Name(), k.store.path(k.id)); err != nil {
		return err
	}
	if err := syncDir(k.store.dir); err != nil {
		return err
	}
	return k.store.reap(k.id)
}

func (k *sink) finish() error {
	if _, err := k.out.Write(binary.BigEndian.AppendUint64(nil, k.size)); err != nil {
		return err
	}
	if err := k.out.Flush(); err != nil {
		return err
	}
	if _, err := k.file.Write(k.hash.Sum(nil)); err != nil {
		return err
	}
	if err := errors.Join(k.file.Sync(), k.file.Close()); err != nil {
		return err
	}
	return verifySnapshot(k.file.Name())
}

// Cancel drops the snapshot.
func (k *sink) Cancel() error {
	if k.over {
		return nil
	}
	k.over = true
	_ = k.file.Close() // closed before, where finish failed late
	return os.Remove(k.file.Name())
}

// reap removes every snapshot but id: the log has been cut behind the newest, an older one leads nowhere.
func (s *Snapshots) reap(id string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, snapshotSuffix) && name < id {
			if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
