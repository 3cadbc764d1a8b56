package town

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/rs/zerolog/log"
)

// peerPort is the port of every node of a Network that the other nodes dial.
const peerPort = 8444

// Links are the ways between the nodes of a Network: what one dials another by goes through a proxy of its own, in the
// callers' namespace, that delays, narrows or swallows it. Callers reach the nodes directly.
type Links struct {
	net     *Network
	proxies map[link]*toxiproxy.Proxy
}

// link is a way from one address to another.
type link struct{ from, to string }

// NewLinks makes the proxies between so many nodes. Its Prepare takes the place of the network's.
func NewLinks(t testing.TB, net *Network, nodes int) *Links {
	t.Helper()
	log.Logger = zerolog.Nop() // where its toxics report each of their turns
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &Links{net: net, proxies: map[link]*toxiproxy.Proxy{}}
	for from := range nodes {
		for to := range nodes {
			if from != to {
				l.add(t, server, net.address(from+1), net.address(to+1))
			}
		}
	}
	return l
}

func (l *Links) add(t testing.TB, server *toxiproxy.ApiServer, from, to string) {
	t.Helper()
	proxy := toxiproxy.NewProxy(server, from+" to "+to, net.JoinHostPort(l.net.address(254), "0"), fmt.Sprintf("%s:%d", to, peerPort))
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	l.proxies[link{from, to}] = proxy
}

// Prepare is a Plan's: it puts a node into a namespace where what it dials other nodes by leads to the proxies.
func (l *Links) Prepare(t testing.TB, number int, n *Node) {
	t.Helper()
	l.net.Prepare(t, number, n)
	for way, proxy := range l.proxies {
		if way.from == l.net.hosts[n] {
			l.net.run(t, n, "iptables", "-t", "nat", "-A", "OUTPUT", "-d", way.to, "-p", "tcp", "--dport", fmt.Sprint(peerPort),
				"-j", "DNAT", "--to-destination", proxy.Listen)
		}
	}
}

// Slow delays everything between a node and some others, each way, by 100 ms, 50 more or less, and lets through so many
// KB a second.
func (l *Links) Slow(t testing.TB, n *Node, others []*Node, kilobytes int) {
	t.Helper()
	l.between(t, n, others, `{"type":"latency","stream":%q,"attributes":{"latency":100,"jitter":50}}`)
	l.between(t, n, others, `{"type":"bandwidth","stream":%q,"attributes":{"rate":`+fmt.Sprint(kilobytes)+`}}`)
}

// Hang lets connections between a node and some others be, old and new ones, and nothing through. Those that hung end
// when the links are healed.
func (l *Links) Hang(t testing.TB, n *Node, others []*Node) {
	t.Helper()
	l.between(t, n, others, `{"type":"timeout","stream":%q,"attributes":{"timeout":0}}`)
}

// between adds a toxic (toxiproxy's word) to both directions of what either side dialled.
func (l *Links) between(t testing.TB, n *Node, others []*Node, toxic string) {
	t.Helper()
	for _, other := range others {
		for _, way := range []link{{l.net.hosts[n], l.net.hosts[other]}, {l.net.hosts[other], l.net.hosts[n]}} {
			for _, direction := range []string{"upstream", "downstream"} {
				if _, err := l.proxies[way].Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(toxic, direction))); err != nil {
					t.Fatalf("%s: %v", toxic, err)
				}
			}
		}
	}
}

// Heal undoes what was done to the links.
func (l *Links) Heal(t testing.TB) {
	t.Helper()
	for _, proxy := range l.proxies {
		proxy.Toxics.ResetToxics(t.Context())
	}
}
