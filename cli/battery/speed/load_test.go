//go:build battery

package speed_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/wire"
)

// server is what is asked: a node or floor T.
type server struct {
	address string
	pid     int
	node    *town.Node // nil: floor T
}

func serverOf(n *town.Node) *server { return &server{address: n.API, pid: n.PID(), node: n} }

// clockTick is the unit of a process's times in /proc: USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// processors is what the server and its children (a node's HSM module runs in one) have used of the processors.
func (s *server) processors(t testing.TB) time.Duration {
	t.Helper()
	sum := time.Duration(0)
	for _, pid := range append(children(t, s.pid), strconv.Itoa(s.pid)) {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), ") ") // the name before it may hold anything
		for _, field := range strings.Fields(after)[11:13] {
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum
}

func children(t testing.TB, pid int) []string {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err == nil { // else: a thread that has ended
			all = append(all, strings.Fields(string(text))...)
		}
	}
	return all
}

// mallocs is how many allocations a node has made; 0 for floor T.
func (s *server) mallocs(t testing.TB) float64 {
	t.Helper()
	if s.node == nil {
		return 0
	}
	return s.node.Gauge(t, "go_memstats_mallocs_total")
}

// shape is how requests are offered.
type shape struct {
	connections int
	rate        int // a second, by all connections together; 0: each asks again as soon as it is answered
}

func (s shape) String() string {
	if s.rate == 0 {
		return fmt.Sprintf("%d, as many as are answered", s.connections)
	}
	return fmt.Sprintf("%d, %d a second", s.connections, s.rate)
}

// request makes the n-th request.
type request func(n int64) []byte

// always makes the same request.
func always(text []byte) request { return func(int64) []byte { return text } }

// figures are what one measurement gave.
type figures struct {
	perSecond      float64
	p50, p99, p999 float64 // milliseconds from when the request was due
	cpu            float64 // of the server, microseconds for each request
	allocations    float64 // of the server, for each request
}

// dial opens connections to a server.
func dial(t testing.TB, s *server, certificate *tls.Certificate, count int) []*wire.Pipe {
	t.Helper()
	pipes := make([]*wire.Pipe, count)
	for i := range pipes {
		p, err := wire.Open(t.Context(), s.address, net.IPv4(127, 0, 0, 1), certificate)
		if err != nil {
			t.Fatal(err)
		}
		pipes[i] = p
		t.Cleanup(func() { _ = p.Close() })
	}
	return pipes
}

// offer makes requests for a while. Every one must be granted.
func offer(t testing.TB, s *server, pipes []*wire.Pipe, rate int, long time.Duration, next request) figures {
	t.Helper()
	took, number := make([][]time.Duration, len(pipes)), atomic.Int64{}
	var askers sync.WaitGroup
	mallocs, before, began := s.mallocs(t), s.processors(t), time.Now()
	for i, p := range pipes {
		askers.Go(func() {
			for {
				n := number.Add(1) - 1
				due := time.Now()
				if rate > 0 {
					due = began.Add(time.Duration(n) * time.Second / time.Duration(rate))
					time.Sleep(time.Until(due))
				}
				if due.Sub(began) >= long {
					return
				}
				p.Request = next(n)
				if got, err := p.Ask(); err != nil || got.Status != http.StatusOK {
					t.Errorf("request %d is not granted: %s, %v", n, got.Why(), err)
					return
				}
				took[i] = append(took[i], time.Since(due))
			}
		})
	}
	askers.Wait()
	whole, used, made := time.Since(began), s.processors(t)-before, s.mallocs(t)-mallocs
	return figuresOf(slices.Concat(took...), whole, used, made)
}

func figuresOf(times []time.Duration, whole, used time.Duration, made float64) figures {
	slices.Sort(times)
	count := float64(max(1, len(times)))
	at := func(q float64) float64 {
		if len(times) == 0 {
			return 0
		}
		return times[min(int(q*count), len(times)-1)].Seconds() * 1e3
	}
	return figures{
		perSecond: float64(len(times)) / whole.Seconds(), p50: at(0.5), p99: at(0.99), p999: at(0.999),
		cpu: used.Seconds() * 1e6 / count, allocations: made / count,
	}
}

// called lets some callers call over and over for a while.
func called(t testing.TB, s *server, callers int, long time.Duration, call func(caller int) error) figures {
	t.Helper()
	took := make([][]time.Duration, callers)
	var all sync.WaitGroup
	mallocs, before, began := s.mallocs(t), s.processors(t), time.Now()
	for i := range callers {
		all.Go(func() {
			for time.Since(began) < long {
				due := time.Now()
				if err := call(i); err != nil {
					t.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(due))
			}
		})
	}
	all.Wait()
	whole, used, made := time.Since(began), s.processors(t)-before, s.mallocs(t)-mallocs
	return figuresOf(slices.Concat(took...), whole, used, made)
}

// newConnections opens a connection for each request, as 4 callers at once. Without a request it makes the handshake only.
func newConnections(t testing.TB, s *server, certificate *tls.Certificate, long time.Duration, text []byte) figures {
	t.Helper()
	return called(t, s, 4, long, func(int) error { return once(t, s, certificate, text) })
}

func once(t testing.TB, s *server, certificate *tls.Certificate, text []byte) error {
	p, err := wire.Open(t.Context(), s.address, net.IPv4(127, 0, 0, 1), certificate)
	if err != nil {
		return err
	}
	defer p.Close()
	if text == nil {
		return nil
	}
	p.Request = text
	got, err := p.Ask()
	if err == nil && got.Status != http.StatusOK {
		err = fmt.Errorf("the answer is %s", got.Why())
	}
	return err
}

// many lets each connection do something over and over, until it says that it is done.
func many(t testing.TB, pipes []*wire.Pipe, do func(p *wire.Pipe) (more bool, err error)) {
	t.Helper()
	var all sync.WaitGroup
	for _, p := range pipes {
		all.Go(func() {
			for more := true; more; {
				var err error
				if more, err = do(p); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
