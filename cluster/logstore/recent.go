package logstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

const (
	recentSlots = 128
	recentBytes = 64 << 10 // an entry above it is read from disk
)

// recent keeps the entries appended last, for the replicators that send each of them to every follower. It holds
// at most 8 MiB. Entries are shared, not copied: Raft does not change a stored entry.
type recent struct {
	mu    sync.RWMutex // guards slots
	slots [recentSlots]*raft.Log
}

func (r *recent) put(entry *raft.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.slots[entry.Index%recentSlots]
	if *slot = nil; len(entry.Data) <= recentBytes {
		kept := *entry
		*slot = &kept
	}
}

func (r *recent) get(index uint64, entry *raft.Log) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	kept := r.slots[index%recentSlots]
	if kept == nil || kept.Index != index {
		return false
	}
	*entry = *kept
	return true
}

func (r *recent) drop(lowest, highest uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, kept := range r.slots {
		if kept != nil && kept.Index >= lowest && kept.Index <= highest {
			r.slots[i] = nil
		}
	}
}
