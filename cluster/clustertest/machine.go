package clustertest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"warder/cluster"
)

// Machine is a state machine of named registers. It keeps its state when its node is stopped or killed, as a
// durable one would, and checks its caller. An entry is "put <key> <value>", "add <key> <value>" (refused where the
// key has a value) or anything else; its result is the value before, or "refused".
type Machine struct {
	mu    sync.Mutex // guards all below
	state state
	fault error
	gate  chan struct{}
	calls int // of Apply
	count int // entries since start, or restore
}

type state struct {
	Applied uint64
	Hash    [32]byte
	Values  map[string]string
}

var _ cluster.Machine = (*Machine)(nil)

// NewMachine gives an empty machine.
func NewMachine() *Machine { return &Machine{state: state{Values: map[string]string{}}} }

// Apply applies entries, and fails where index does not rise.
func (m *Machine) Apply(index uint64, entries [][]byte) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.gate != nil {
		gate := m.gate
		m.mu.Unlock()
		<-gate
		m.mu.Lock()
	}
	if m.fault != nil {
		return nil, m.fault
	}
	if index <= m.state.Applied {
		return nil, fmt.Errorf("index %d comes after %d", index, m.state.Applied)
	}
	results := make([][]byte, len(entries))
	for i, entry := range entries {
		results[i] = []byte(m.state.apply(string(entry)))
	}
	m.state.Applied = index
	m.calls++
	m.count += len(entries)
	return results, nil
}

func (s *state) apply(entry string) string {
	s.Hash = sha256.Sum256(append(s.Hash[:], entry...))
	words := strings.SplitN(entry, " ", 3)
	if len(words) != 3 {
		return ""
	}
	before, present := s.Values[words[1]]
	if words[0] == "add" && present {
		return "refused"
	}
	s.Values[words[1]] = words[2]
	return before
}

// Get gives a register's value, "" for none.
func (m *Machine) Get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Values[key]
}

// Len gives the number of registers that have a value.
func (m *Machine) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.state.Values)
}

// Calls gives how often Apply succeeded, and with how many entries.
func (m *Machine) Calls() (calls, entries int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls, m.count
}

// Fail makes Apply fail from now on.
func (m *Machine) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = err
}

// Hang makes Apply wait until the function it returns is called.
func (m *Machine) Hang() (release func()) {
	gate := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gate = gate
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.gate = nil
		close(gate)
	}
}

// Corrupt changes the state behind the log's back.
func (m *Machine) Corrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Hash[0] ^= 1
}

func (m *Machine) Applied() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Applied
}

func (m *Machine) StateHash() (uint64, [32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Applied, m.state.Hash
}

func (m *Machine) Snapshot() (cluster.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := json.Marshal(m.state)
	return snapshot{m.state.Applied, data}, err
}

// Restore skips a snapshot at or below Applied.
func (m *Machine) Restore(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	fresh := state{}
	if len(data) < 8 {
		return errors.New("snapshot is cut short")
	}
	if err := json.Unmarshal(data[8:], &fresh); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if fresh.Applied > m.state.Applied {
		m.state = fresh
	}
	return nil
}

type snapshot struct {
	index uint64
	data  []byte
}

func (s snapshot) Index() uint64 { return s.index }
func (s snapshot) Close() error  { return nil }

func (s snapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(append(binary.BigEndian.AppendUint64(nil, s.index), s.data...))
	return int64(n), err
}
