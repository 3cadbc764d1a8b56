package town

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
)

// Network gives each node a network namespace of its own, joined by a bridge that the callers are at. It needs root.
type Network struct {
	id    int
	hosts map[*Node]string // addresses
}

// networks counts the networks of this process: the links of one that is gone may still be there for a moment.
var networks atomic.Int32

// NewNetwork makes the bridge.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	w := &Network{id: (os.Getpid() + int(networks.Add(1))) % 10000, hosts: map[*Node]string{}}
	command(t, nil, "ip", "link", "add", w.bridge(), "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", w.bridge()).Run() })
	command(t, nil, "ip", "addr", "add", w.address(254)+"/24", "dev", w.bridge())
	command(t, nil, "ip", "link", "set", w.bridge(), "up")
	return w
}

func (w *Network) bridge() string             { return fmt.Sprintf("wb%d", w.id) }
func (w *Network) space(n *Node) string       { return fmt.Sprintf("wn%d-%s", w.id, n.ID) }
func (w *Network) link(n *Node) string        { return fmt.Sprintf("wv%d%s", w.id, n.ID) }
func (w *Network) address(number int) string  { return fmt.Sprintf("10.213.%d.%d", w.id%250, number) }
func (w *Network) inside(n *Node) []string    { return []string{"ip", "netns", "exec", w.space(n)} }
func (w *Network) port(n *Node, p int) string { return net.JoinHostPort(w.hosts[n], fmt.Sprint(p)) }

// Prepare is a Plan's: it puts a node into a namespace.
func (w *Network) Prepare(t testing.TB, number int, n *Node) {
	t.Helper()
	w.hosts[n] = w.address(number + 1)
	command(t, nil, "ip", "netns", "add", w.space(n))
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", w.space(n)).Run() })
	command(t, nil, "ip", "link", "add", w.link(n), "type", "veth", "peer", "name", "eth0", "netns", w.space(n))
	command(t, nil, "ip", "link", "set", w.link(n), "master", w.bridge(), "up")
	w.run(t, n, "ip", "addr", "add", w.hosts[n]+"/24", "dev", "eth0")
	w.run(t, n, "ip", "link", "set", "eth0", "up")
	w.run(t, n, "ip", "link", "set", "lo", "up")
	n.API, n.Peer, n.Metrics = w.port(n, 8443), w.port(n, peerPort), w.port(n, 8445)
	n.Wrap = w.inside(n)
}

func (w *Network) run(t testing.TB, n *Node, args ...string) {
	t.Helper()
	all := append(w.inside(n), args...)
	command(t, nil, all[0], all[1:]...)
}

// Deafen makes a node hear nothing of another; what it says still arrives there.
func (w *Network) Deafen(t testing.TB, n, to *Node) {
	t.Helper()
	w.run(t, n, "iptables", "-A", "INPUT", "-s", w.hosts[to], "-j", "DROP")
}

// Part cuts two nodes off from each other; callers still reach both.
func (w *Network) Part(t testing.TB, a, b *Node) {
	t.Helper()
	w.Deafen(t, a, b)
	w.Deafen(t, b, a)
}

// Lose loses a part of what a node is sent, by callers too.
func (w *Network) Lose(t testing.TB, n *Node, part float64) {
	t.Helper()
	w.run(t, n, "iptables", "-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", fmt.Sprint(part), "-j", "DROP")
}

// Unplug takes a node's link down; Plug puts it up again.
func (w *Network) Unplug(t testing.TB, n *Node) {
	t.Helper()
	w.run(t, n, "ip", "link", "set", "eth0", "down")
}

// Plug puts a node's link up.
func (w *Network) Plug(t testing.TB, n *Node) {
	t.Helper()
	w.run(t, n, "ip", "link", "set", "eth0", "up")
}

// Heal undoes what was done to the nodes' ears.
func (w *Network) Heal(t testing.TB) {
	t.Helper()
	for n := range w.hosts {
		w.run(t, n, "iptables", "-F", "INPUT")
	}
}
