package town

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// clockEnv names the environment variable that holds the path of a node's skew.
const clockEnv = "WARDER_TOWN_CLOCK"

// BuildSkewable builds the program with a wall clock that Skew sets: time.Now adds what a file says, in seconds. Timers
// and the monotonic clock are as they were, as on a machine whose clock is set.
func BuildSkewable(t testing.TB) string {
	t.Helper()
	source := filepath.Join(runtime.GOROOT(), "src", "time", "time.go") //nolint:staticcheck // the Go that builds it
	return Build(t,
		Edit{source, "import (\n\t\"errors\"\n\t\"math/bits\"\n", "import (\n\t\"errors\"\n\t\"math/bits\"\n\t\"sync/atomic\"\n\t\"syscall\"\n"},
		Edit{source, "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n\tsec += townBy.Load()\n"},
		Edit{source, "func unixTime(sec int64, nsec int32) Time {", skewSource + "func unixTime(sec int64, nsec int32) Time {"},
	)
}

// skewSource reads the file at the start and every 20 ms. It cannot be read in time.Now: the scheduler calls that too.
const skewSource = `
var townBy atomic.Int64

func init() {
	townRead()
	go func() {
		for {
			Sleep(20 * Millisecond)
			townRead()
		}
	}()
}

func townRead() {
	name, _ := syscall.Getenv("` + clockEnv + `")
	fd, err := open(name)
	if err != nil {
		return
	}
	defer closefd(fd)
	var text [32]byte
	n, _ := read(fd, text[:])
	by, sign := int64(0), int64(1)
	for _, c := range text[:max(0, n)] {
		switch {
		case c == '-':
			sign = -1
		case '0' <= c && c <= '9':
			by = by*10 + int64(c-'0')
		}
	}
	townBy.Store(sign * by)
}

`

func (n *Node) clock() string { return filepath.Join(n.Dir, "clock") }

// Skewable prepares a node for Skew. It is a Plan's Prepare.
func Skewable(t testing.TB, _ int, n *Node) {
	t.Helper()
	n.Env = append(n.Env, clockEnv+"="+n.clock())
	n.Skew(t, 0)
}

// Skew sets how far the node's wall clock is ahead, while it runs or not.
func (n *Node) Skew(t testing.TB, ahead time.Duration) {
	t.Helper()
	next := n.clock() + ".new" // written aside and renamed: it is read at any moment
	if err := os.WriteFile(next, []byte(strconv.FormatInt(int64(ahead/time.Second), 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, n.clock()); err != nil {
		t.Fatal(err)
	}
}
