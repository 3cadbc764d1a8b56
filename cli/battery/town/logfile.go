package town

import (
	"bytes"
	"os"
	"strings"
	"sync"
)

// logFile is a process's output: a file for people, and its last part for messages.
type logFile struct {
	file *os.File
	mu   sync.Mutex
	last bytes.Buffer
}

func (l *logFile) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.Len() > 1<<16 {
		l.last.Next(l.last.Len() / 2)
	}
	l.last.Write(text)
	return l.file.Write(text)
}

func (l *logFile) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.last.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
