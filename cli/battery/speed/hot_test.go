//go:build battery

package speed_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
	"warder/cli/battery/town"
	"warder/cli/battery/wire"
)

// TestHot measures the requests that are made over and over on one node, 1,000 policies and 100,000 records in it, its
// audit record on disk before each answer. Every round asks the floors and every kind of work by turns.
func TestHot(t *testing.T) {
	softHSM := town.BareSoftHSM(t)
	at := oneNode(t, softHSM, "")
	bot := furnish(t, at)
	addPolicies(t, at, times(20, 1000))
	grower := &writer{}
	operator := at.Certificate(t)
	grower.grow(t, dial(t, serverOf(at.Nodes[0]), &operator, 64), times(200, 100_000))
	plain, node := startPlain(t, at), serverOf(at.Nodes[0])
	for _, s := range []shape{{16, 0}, {64, 0}, {64, 2000}} {
		h := hot{bot: bot, plain: plain, node: node, shape: s, work: map[string]series{}}
		h.measure(t)
		h.table().show(t)
	}
	modules(t, softHSM, node, bot, plain)
	handshakes(t, plain, node, bot)
	throughGRPC(t, node, bot, plain)
}

// TestRelaxed measures a read when the audit record need not be on disk before the answer.
func TestRelaxed(t *testing.T) {
	at := oneNode(t, town.BareSoftHSM(t), "audit:\n  mode: relaxed\n")
	h := hot{bot: furnish(t, at), plain: startPlain(t, at), node: serverOf(at.Nodes[0]), shape: shape{64, 0}, work: map[string]series{}, only: "secret read"}
	h.measure(t)
	r := h.table()
	r.title = "One node, `audit.mode: relaxed`, 64 connections"
	r.show(t)
}

func oneNode(t testing.TB, softHSM *town.SoftHSM, lines string) *town.Town {
	t.Helper()
	return town.New(t, town.Plan{Nodes: 1, Config: func(t testing.TB, n *town.Node) string { return softHSM.Config(t, n) + settings + lines }})
}

// hot is one way of offering requests, and what came of it.
type hot struct {
	bot         *bot
	plain, node *server
	shape       shape
	work        map[string]series
	only        string // the kind of work; empty: all
}

const (
	floorTName = "floor T"
	floorSName = "floor S"
	// alike begins the name of floor T where it is asked as often in a second as a kind of work was: what a request costs
	// depends on how many are offered, and a server that always has the next one waiting never falls asleep.
	alike = "floor T as often as "
)

func (h *hot) measure(t testing.TB) {
	t.Helper()
	long := time.Duration(times(100, 2000)) * time.Millisecond
	plain, node := dial(t, h.plain, h.bot.certificate, h.shape.connections), dial(t, h.node, h.bot.certificate, h.shape.connections)
	floor := always(wire.Post("/", "", readBody))
	offer(t, h.plain, plain, 0, long/4, floor) // warm
	for range times(1, 3) {
		h.note(floorTName, offer(t, h.plain, plain, h.shape.rate, long, floor))
		h.note(floorSName, figures{cpu: floorS(t, long/8)})
		for _, w := range kinds() {
			if h.only == "" || h.only == w.name {
				got := offer(t, h.node, node, h.shape.rate, long, always(w.request(h.bot)))
				h.note(w.name, got)
				h.note(alike+w.name, offer(t, h.plain, plain, max(1, int(got.perSecond)), long, floor))
			}
		}
	}
	for _, p := range append(plain, node...) {
		_ = p.Close() // the next shape has its own
	}
}

func (h *hot) note(name string, f figures) { h.work[name] = append(h.work[name], f) }

// goals are the most CPU time that a kind of work may take, in T and S (issue 2 of the project).
func goals() map[string][2]float64 {
	return map[string][2]float64{
		"secret read": {2, 0}, "token issue": {2, 1.2}, "broker sign, HMAC-SHA256": {2.1, 0}, "broker sign, Ed25519": {2.1, 1.2},
	}
}

func (h *hot) table() *table {
	r := &table{
		title: fmt.Sprintf("One node, connections: %s", h.shape),
		head:  []string{"work", "server CPU, µs", "of T", "of T at the same rate", "goal", "allocations", "a second", "p50 ms", "p99 ms", "p99.9 ms"},
	}
	floor, s := h.work[floorTName].inRounds(cpu), median(h.work[floorSName].of(cpu))
	r.add("floor T", spread(floor), "1", "1", "", "", spread(h.work[floorTName].of(perSecond)), latency(h.work[floorTName], p50), latency(h.work[floorTName], p99), latency(h.work[floorTName], p999))
	r.add("floor S, one Ed25519 signature", number(s), "", "", "", "", "", "", "", "")
	for _, w := range kinds() {
		got := h.work[w.name]
		if len(got) == 0 {
			continue
		}
		goal := ""
		if most, ok := goals()[w.name]; ok {
			goal = number(most[0] + most[1]*s/median(h.work[floorTName].of(cpu)))
		}
		r.add(w.name, spread(got.of(cpu)), spread(ratios(got.inRounds(cpu), floor)), spread(ratios(got.inRounds(cpu), h.work[alike+w.name].inRounds(cpu))), goal, number(median(got.of(allocations))),
			spread(got.of(perSecond)), latency(got, p50), latency(got, p99), latency(got, p999))
	}
	return r
}

func latency(s series, what func(figures) float64) string { return number(median(s.of(what))) }

// modules holds signatures of devices against what the machine can do: 1/(T+S) for keys that the node opens, floor M for
// keys that stay in the HSM.
func modules(t *testing.T, softHSM *town.SoftHSM, node *server, b *bot, plain *server) {
	long := time.Duration(times(100, 2000)) * time.Millisecond
	bare := openModule(t, softHSM, 8) // hsm.sessions
	plainPipes, nodePipes := dial(t, plain, b.certificate, 64), dial(t, node, b.certificate, 64)
	var hsm, sealed, module, room []float64
	all := kinds()
	for range times(1, 5) {
		module = append(module, bare.floorM(t, long))
		hsm = append(hsm, offer(t, node, nodePipes, 0, long, always(all[5].request(b))).perSecond)
		floor := offer(t, plain, plainPipes, 0, long, always(wire.Post("/", "", readBody)))
		room = append(room, 1e6/(floor.cpu+floorS(t, long/8)))
		sealed = append(sealed, offer(t, node, nodePipes, 0, long, always(all[4].request(b))).perSecond)
	}
	r := &table{title: "Signatures of devices, 64 connections", head: []string{"custody", "a second", "floor, a second", "of the floor", "goal"}}
	r.add("`sealed`", spread(sealed), "1/(T+S): "+spread(room), spread(ratios(sealed, room)), "0.6")
	r.add("`hsm`", spread(hsm), "M, the module in a bare loop, 8 sessions: "+spread(module), spread(ratios(hsm, module)), "0.85")
	r.show(t)
}

// handshakes measures new connections.
func handshakes(t *testing.T, plain, node *server, b *bot) {
	long := time.Duration(times(100, 2000)) * time.Millisecond
	var bare, whole series
	for range times(1, 5) {
		bare = append(bare, newConnections(t, plain, b.certificate, long, nil))
		whole = append(whole, newConnections(t, node, b.certificate, long, kinds()[0].request(b)))
	}
	r := &table{title: "New connections, 4 at once, no resumption", head: []string{"what", "server CPU, µs", "of the handshake", "goal", "a second"}}
	r.add("mutual TLS 1.3 handshake with floor T's server", spread(bare.of(cpu)), "1", "", spread(bare.of(perSecond)))
	r.add("connection with certificate and one secret read", spread(whole.of(cpu)), spread(ratios(whole.inRounds(cpu), bare.inRounds(cpu))), "1.15", spread(whole.of(perSecond)))
	r.show(t)
}

// throughGRPC measures reads of gRPC callers: 64 connections over HTTP/2, one call at a time on each. Connect's own
// client makes them, so T is asked by the same client over HTTP/1.1 rather than by the cheap one; and net/http's HTTP/2 by
// that client with as little behind it as T has, which says what of a call is the transport's.
func throughGRPC(t *testing.T, node *server, b *bot, plain *server) {
	long := time.Duration(times(100, 2000)) * time.Millisecond
	pipes := dial(t, plain, b.certificate, 64)
	read, bare := reader(t, node, b, 64), reader(t, plain, b, 64)
	var floors, transports, reads series
	for range times(1, 5) {
		got := called(t, node, 64, long, read)
		floors = append(floors, offer(t, plain, pipes, max(1, int(got.perSecond)), long, always(wire.Post("/", "", readBody))))
		transports = append(transports, called(t, plain, 64, long, bare))
		reads = append(reads, got)
	}
	r := &table{title: "A gRPC client, 64 connections, one call at a time on each", head: []string{"work", "server CPU, µs", "of T at the same rate", "goal", "allocations", "a second"}}
	r.add("secret read over gRPC", spread(reads.of(cpu)), spread(ratios(reads.inRounds(cpu), floors.inRounds(cpu))), "1.4", number(median(reads.of(allocations))), spread(reads.of(perSecond)))
	r.add("net/http's HTTP/2 that answers the same call with bytes at hand", spread(transports.of(cpu)), spread(ratios(transports.inRounds(cpu), floors.inRounds(cpu))), "", "", spread(transports.of(perSecond)))
	r.show(t)
}

// reader gives the calls of that many gRPC clients, which read a secret.
func reader(t *testing.T, from *server, b *bot, clients int) func(int) error {
	callers := make([]warderv1connect.CredentialServiceClient, clients)
	for i := range callers {
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*b.certificate},
		}}
		t.Cleanup(transport.CloseIdleConnections)
		callers[i] = warderv1connect.NewCredentialServiceClient(&http.Client{Transport: transport}, "https://"+from.address, connect.WithGRPC())
	}
	return func(i int) error {
		ctx, call := connect.NewClientContext(t.Context())
		call.RequestHeader().Set("Authorization", "Bearer "+b.token)
		_, err := callers[i].RevealCredential(ctx, &warderv1.RevealCredentialRequest{Namespace: namespace, Name: "static"})
		return err
	}
}
