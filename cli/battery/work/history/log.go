package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"sync"
	"time"
)

// Log collects operations. It is safe for concurrent use.
type Log struct {
	began time.Time

	mu  sync.Mutex
	ops []Op // guarded by mu
}

// NewLog begins a history now.
func NewLog() *Log { return &Log{began: time.Now()} }

// Now is the time since the history began.
func (l *Log) Now() time.Duration { return time.Since(l.began) }

// Add adds an operation that is over.
func (l *Log) Add(op Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// Ops gives a copy of what is known by now.
func (l *Log) Ops() []Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ops)
}

// WriteFile writes operations to a file, one JSON object a line.
func WriteFile(path string, ops []Op) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffer := bufio.NewWriter(file)
	encoder := json.NewEncoder(buffer)
	for _, op := range ops {
		if err := encoder.Encode(op); err != nil {
			return err
		}
	}
	return buffer.Flush()
}
