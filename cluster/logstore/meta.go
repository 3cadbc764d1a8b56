package logstore

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft-wal/types"
)

const metaName = "segments"

// metaStore keeps raft-wal's list of segments in a sealed file, in place of the library's bbolt database:
// bbolt maps its file and panics, or dies by SIGBUS, where that is cut or changed. Payload:
//
//	next segment id u64 | count u32 | count x (id, base, min, max, codec, index start u64; created,
//	sealed i64 ns since 1970, 0 = not; size limit u32)
type metaStore struct {
	path string
	mu   sync.Mutex // guards the file: one writer at a time
}

const segmentSize = 8*8 + 4

var _ types.MetaStore = (*metaStore)(nil)

func newMetaStore(dir string) *metaStore { return &metaStore{path: filepath.Join(dir, metaName)} }

// Load is called once, by raft-wal's Open. No file means a new log: Open has checked that nothing else exists.
func (m *metaStore) Load(string) (types.PersistentState, error) {
	payload, err := ReadSealed(m.path, kindMeta)
	if errors.Is(err, fs.ErrNotExist) {
		return types.PersistentState{NextSegmentID: 1}, nil
	}
	if err != nil {
		return types.PersistentState{}, err
	}
	return m.decode(payload)
}

func (m *metaStore) CommitState(state types.PersistentState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return WriteSealed(m.path, kindMeta, encodeMeta(state))
}

func encodeMeta(state types.PersistentState) []byte {
	out := binary.BigEndian.AppendUint64(nil, state.NextSegmentID)
	out = binary.BigEndian.AppendUint32(out, uint32(len(state.Segments)))
	for _, s := range state.Segments {
		for _, v := range []uint64{s.ID, s.BaseIndex, s.MinIndex, s.MaxIndex, s.Codec, s.IndexStart,
			uint64(unixNano(s.CreateTime)), uint64(unixNano(s.SealTime))} {
			out = binary.BigEndian.AppendUint64(out, v)
		}
		out = binary.BigEndian.AppendUint32(out, s.SizeLimit)
	}
	return out
}

func (m *metaStore) decode(payload []byte) (types.PersistentState, error) {
	if len(payload) < 12 || (len(payload)-12)%segmentSize != 0 ||
		int(binary.BigEndian.Uint32(payload[8:])) != (len(payload)-12)/segmentSize {
		return types.PersistentState{}, damaged(m.path, "list of segments has a wrong length")
	}
	state := types.PersistentState{NextSegmentID: binary.BigEndian.Uint64(payload)}
	for rest := payload[12:]; len(rest) > 0; rest = rest[segmentSize:] {
		word := func(i int) uint64 { return binary.BigEndian.Uint64(rest[8*i:]) }
		state.Segments = append(state.Segments, types.SegmentInfo{
			ID: word(0), BaseIndex: word(1), MinIndex: word(2), MaxIndex: word(3), Codec: word(4), IndexStart: word(5),
			CreateTime: fromNano(word(6)), SealTime: fromNano(word(7)), SizeLimit: binary.BigEndian.Uint32(rest[64:]),
		})
	}
	return state, nil
}

func fromNano(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns))
}

// GetStable and SetStable are not used: term and vote live in a file of their own (Stable).
func (m *metaStore) GetStable([]byte) ([]byte, error) { return nil, errors.ErrUnsupported }
func (m *metaStore) SetStable(_, _ []byte) error      { return errors.ErrUnsupported }
func (m *metaStore) Close() error                     { return nil }
