package cluster

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"

	"warder/cluster/logstore"
)

const standingName = "standing"

// standing says whether this node may take part in elections. A node that starts with an empty disk may not:
// it may have voted, and acknowledged entries, that it no longer knows of (hashicorp/raft itself grants a vote
// when it knows no members). The leader demotes it to non-voter, and says at which index that was committed; it
// is a full member again when a later configuration has it as a voter. Sealed payload:
//
//	incarnation 16 bytes | outside u8 (1 = takes no part) | demoted at u64
type standing struct {
	path string

	mu          sync.Mutex // guards the file and all below
	incarnation [16]byte   // of this disk: random, new whenever it is found empty
	demoted     uint64     // index of the configuration that demoted this incarnation, 0 = none yet
	outside     atomic.Bool
}

const standingSize = 16 + 1 + 8

// openStanding reads the standing in dir. empty tells that the log and the snapshots beside it are empty,
// bootstrap that this node begins a cluster.
func openStanding(dir string, empty, bootstrap bool) (*standing, error) {
	s := &standing{path: filepath.Join(dir, standingName)}
	payload, err := logstore.ReadSealed(s.path, logstore.KindMember)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && !empty:
		return nil, fmt.Errorf("%s: missing beside a log: %w", s.path, ErrDamaged)
	case missing:
	case err != nil:
		return nil, err
	case len(payload) != standingSize:
		return nil, fmt.Errorf("%s: wrong length: %w", s.path, ErrDamaged)
	default:
		copy(s.incarnation[:], payload)
		s.outside.Store(payload[16] != 0)
		s.demoted = binary.BigEndian.Uint64(payload[17:])
	}
	if !empty {
		return s, nil
	}
	if !missing && !bootstrap && s.outside.Load() && s.demoted == 0 {
		return s, nil // still waiting to be admitted
	}
	rand.Read(s.incarnation[:])
	return s, s.save(!bootstrap, 0)
}

func (s *standing) save(outside bool, demoted uint64) error {
	payload := append(s.incarnation[:len(s.incarnation):len(s.incarnation)], 0)
	if outside {
		payload[16] = 1
	}
	payload = binary.BigEndian.AppendUint64(payload, demoted)
	if err := logstore.WriteSealed(s.path, logstore.KindMember, payload); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	s.demoted = demoted
	s.outside.Store(outside)
	return nil
}

func (s *standing) get() (incarnation [16]byte, outside bool, demoted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.incarnation, s.outside.Load(), s.demoted
}

// demote records that the configuration at index has incarnation as a non-voter.
func (s *standing) demote(incarnation [16]byte, index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if incarnation != s.incarnation || !s.outside.Load() || s.demoted != 0 || index == 0 {
		return nil
	}
	return s.save(true, index)
}

// promote ends the exclusion where the configuration at index, which has this node as a voter, is later than its
// demotion: earlier ones may have it as the voter that it was with its former disk.
func (s *standing) promote(index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.outside.Load() || s.demoted == 0 || index <= s.demoted {
		return nil
	}
	return s.save(false, s.demoted)
}
