package logstore

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

const stableName = "stable"

// Stable keeps a node's term and vote, in one small sealed file that every change replaces. Payload:
//
//	count u16 | count x (key length u8 | value length u16 | key | value), keys ascending
type Stable struct {
	path string

	mu     sync.Mutex // guards values and failed
	values map[string][]byte
	failed error
}

var _ raft.StableStore = (*Stable)(nil)

// errKeyNotFound has the text that hashicorp/raft compares with.
var errKeyNotFound = errors.New("not found")

func openStable(dir string) (*Stable, error) {
	s := &Stable{path: filepath.Join(dir, stableName), values: map[string][]byte{}}
	payload, err := ReadSealed(s.path, kindStable)
	if errors.Is(err, fs.ErrNotExist) {
		return s, WriteSealed(s.path, kindStable, encodeStable(s.values))
	}
	if err != nil {
		return nil, err
	}
	s.values, err = decodeStable(s.path, payload)
	return s, err
}

// Set stores one value and returns when it is durable. After one failure every later call fails alike: what
// the disk holds is no longer known.
func (s *Stable) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if len(key) > 255 || len(value) > 1<<15 {
		return errors.New("stable store: key or value is too large")
	}
	s.values[string(key)] = slices.Clone(value)
	s.failed = WriteSealed(s.path, kindStable, encodeStable(s.values))
	return s.failed
}

func (s *Stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[string(key)]
	if !ok {
		return nil, errKeyNotFound
	}
	return slices.Clone(value), nil
}

func (s *Stable) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

func (s *Stable) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, damaged(s.path, "%q is no number", key)
	}
	return binary.BigEndian.Uint64(value), nil
}

func encodeStable(values map[string][]byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		out = append(out, byte(len(key)))
		out = binary.BigEndian.AppendUint16(out, uint16(len(values[key])))
		out = append(append(out, key...), values[key]...)
	}
	return out
}

func decodeStable(path string, payload []byte) (map[string][]byte, error) {
	wrong := damaged(path, "record has a wrong length")
	if len(payload) < 2 {
		return nil, wrong
	}
	count, rest := int(binary.BigEndian.Uint16(payload)), payload[2:]
	values := map[string][]byte{}
	for range count {
		if len(rest) < 3 {
			return nil, wrong
		}
		key, value := int(rest[0]), int(binary.BigEndian.Uint16(rest[1:]))
		if rest = rest[3:]; len(rest) < key+value {
			return nil, wrong
		}
		values[string(rest[:key])] = slices.Clone(rest[key : key+value])
		rest = rest[key+value:]
	}
	if len(rest) != 0 {
		return nil, wrong
	}
	return values, nil
}
