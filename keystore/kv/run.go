package kv

import (
	"context"
	"sync/atomic"
	"time"
)

// What is here needs a clock, and so is no part of the state machine: it decides for whom Apply waits, and never what
// Apply does.

const (
	// writeDelay is how long Run lets changes gather before they are written: the log's own mark is as far behind, so that
	// no more of the log than before has nothing to be held against.
	writeDelay = 50 * time.Millisecond
	// maxLag is for how long a write may run before Apply waits for it: who watches Apply is to see that the disk hangs.
	maxLag = time.Second
)

// Run lets Apply return when a change can be read, and writes what was applied behind it, many changes in one
// transaction. That is as durable as the log: it has each change before it is applied, and gives again what a crash took
// from the store. Without Run, Apply waits for the disk.
//
// Run returns nil when ctx has ended and all is written, or the fault that stopped the store.
func (s *Store) Run(ctx context.Context) error {
	var began atomic.Pointer[time.Time] // the write now running; nil = none
	s.setBehind(func() bool {
		at := began.Load()
		return at == nil || time.Since(*at) < maxLag
	})
	defer s.setBehind(nil)
	for {
		select {
		case <-ctx.Done():
			s.setBehind(nil) // first, or a change comes between
			return s.Flush()
		case <-s.dirty:
		}
		select {
		case <-ctx.Done():
		case <-time.After(writeDelay):
		}
		now := time.Now()
		began.Store(&now)
		err := s.Flush()
		began.Store(nil)
		if err != nil {
			return err
		}
	}
}

func (s *Store) setBehind(behind func() bool) {
	s.write.Lock()
	defer s.write.Unlock()
	s.behind = behind
}
