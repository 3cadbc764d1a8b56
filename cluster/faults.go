package cluster

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"warder/cluster/logstore"
)

// hashicorp/raft panics where its stable store fails and where an entry that it must apply cannot be read. These
// wrappers report the failure, which stops the node, and end the goroutine that would panic: raft's shutdown
// counts it as returned. They do so once raft runs: until then it reads on the caller's goroutine.

type faultLog struct {
	*logstore.Log
	armed *atomic.Bool
}

var _ raft.MonotonicLogStore = faultLog{}

// GetLog does not return where the entry is damaged: the log has reported it.
func (l faultLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.Log.GetLog(index, entry)
	if err != nil && errors.Is(err, ErrDamaged) && l.armed.Load() {
		runtime.Goexit()
	}
	return err
}

type faultStable struct {
	*logstore.Stable
	armed *atomic.Bool
	fail  func(error)
}

// Set does not return where the value could not be made durable.
func (s faultStable) Set(key, value []byte) error { return s.check(s.Stable.Set(key, value)) }

// SetUint64 does not return where the value could not be made durable.
func (s faultStable) SetUint64(key []byte, value uint64) error {
	return s.check(s.Stable.SetUint64(key, value))
}

func (s faultStable) check(err error) error {
	if err != nil && s.armed.Load() {
		s.fail(err)
		runtime.Goexit()
	}
	return err
}
