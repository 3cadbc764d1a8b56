package cluster

import (
	"slices"
	"sync"
)

const (
	sampleEvery = 64 // log indexes
	sampleCount = 8
)

// sample is a machine's state hash at an index.
type sample struct {
	index uint64
	hash  [32]byte
}

// samples keeps the state's hash at the first applied entry of every sampleEvery indexes, so that members that are
// not at the same index have indexes in common.
type samples struct {
	mu   sync.Mutex // guards kept
	kept []sample
}

func (s *samples) take(machine Machine, before, index uint64) {
	if before/sampleEvery == index/sampleEvery {
		return
	}
	at, hash := machine.StateHash()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, sample{at, hash})
	if len(s.kept) > sampleCount {
		s.kept = slices.Delete(s.kept, 0, 1)
	}
}

// list gives the samples kept and the state of now.
func (s *samples) list(machine Machine) []sample {
	at, hash := machine.StateHash()
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(slices.Clone(s.kept), sample{at, hash})
}
