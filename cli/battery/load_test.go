//go:build battery

package battery_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/wire"
	"warder/cli/battery/work"
)

// TestLoad puts more on nodes than they are made for.
func TestLoad(t *testing.T) {
	t.Run("idle", idle)
	t.Run("slow", slow)
	t.Run("overload", overload)
}

// limits gives the lines of a configuration for many callers of one machine.
func limits(lines string) func(testing.TB, *town.Node) string {
	return func(testing.TB, *town.Node) string {
		return "dev: true\nlimits:\n  connections: 12000\n  connections_per_address: 4000\n" + lines
	}
}

// idleBytes is what one idle connection may take of a node's memory, at most: docs/operations.md says so.
const idleBytes = 100 << 10

// idle keeps thousands of connections open that ask nothing, while callers are at work.
func idle(t *testing.T) {
	count := times(1000, 10000)
	allowFiles(t, uint64(count)+2000)
	at := town.New(t, town.Plan{Config: limits("  idle_timeout: 30m\n")})
	crew := work.Start(t, at)
	crew.Await(t, 20)
	n := at.Nodes[0]
	before, began := n.Resident(t), time.Now()
	pipes := many(t, count, func(i int) (*wire.Pipe, error) {
		p, err := wire.Open(t.Context(), n.API, from(i), nil)
		if err == nil {
			err = healthy(p)
		}
		return p, err
	})
	defer hangUp(pipes)
	opened := time.Since(began)
	crew.Await(t, 50)
	after := n.Resident(t)
	each := (after - before) / int64(count)
	t.Logf("%d idle connections, opened in %s: node at %d MiB, before %d MiB: %d bytes for each", count, opened.Round(time.Millisecond), after>>20, before>>20, each)
	if each > idleBytes {
		t.Errorf("%d bytes for each idle connection; at most %d are promised", each, idleBytes)
	}
	many(t, len(pipes), func(i int) (any, error) { return nil, healthy(pipes[i]) }) // none was dropped
	crew.Finish(t)
}

func healthy(p *wire.Pipe) error {
	status, err := p.Get("/healthz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("/healthz answers %d", status)
	}
	return err
}

func hangUp(pipes []*wire.Pipe) {
	for _, p := range pipes {
		_ = p.Close() // the node may have been first
	}
}

// allowFiles makes this process, and those that it starts, open so many files.
func allowFiles(t testing.TB, count uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur, limit.Max = max(limit.Cur, count), max(limit.Max, count)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatalf("this needs %d open files (ulimit -n): %v", count, err)
	}
}

// slow lets callers take all the time of the world, each in its own way, while others are at work. The node lets go of
// every one of them.
func slow(t *testing.T) {
	const requestTimeout = 5 * time.Second
	count := times(100, 500)
	at := town.New(t, town.Plan{Config: limits("  request_timeout: " + requestTimeout.String() + "\n")})
	bots := hireBots(t, at, 1)
	crew := work.Start(t, at)
	n := at.Nodes[0]
	fill(t, at, n, bots[0])
	before := n.Resident(t)
	endings := make(chan error)
	ways := map[string]func(int) error{
		"no handshake": func(i int) error { return silent(n, from(i)) },
		"slow headers": func(i int) error { return trickle(t, at, n, from(i), "GET /healthz HTTP/1.1\r\nHost: ") },
		"slow bodies": func(i int) error {
			return trickle(t, at, n, from(i), "POST /warder.v1.SystemService/GetStatus HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: 400000\r\n\r\n{")
		},
		"followers that do not read": func(i int) error { return follow(t, at, n, from(i), 3*requestTimeout) },
	}
	started := 0
	for name, way := range ways {
		for i := range count {
			if name == "followers that do not read" && i >= 20 {
				break
			}
			started++
			go func() {
				err := way(i)
				if err != nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
				endings <- err
			}()
		}
	}
	crew.Await(t, 50)
	for range started {
		select {
		case err := <-endings:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("the node does not let go of a slow caller")
		}
	}
	t.Logf("%d slow callers, all let go; node at %d MiB, before %d MiB", started, n.Resident(t)>>20, before>>20)
	crew.Finish(t)
}

// fill makes more audit records than the buffers of a connection hold.
func fill(t testing.TB, at *town.Town, n *town.Node, reader *bot) {
	t.Helper()
	pipes := many(t, 32, func(i int) (*wire.Pipe, error) { return reader.pipe(t, at, n, from(i)) })
	defer hangUp(pipes)
	town.Eventually(t, "the audit log has many records", time.Minute, func() error {
		closed(t, n, pipes, time.Second)
		if records := n.Gauge(t, "warder_audit_records"); records < 30000 {
			return fmt.Errorf("it has %.0f", records)
		}
		return nil
	})
}

// errKept says that a node keeps a connection that it should let go of.
var errKept = errors.New("the node keeps the connection")

// silent connects and says nothing until the node hangs up.
func silent(n *town.Node, source net.IP) error {
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: source}}).Dial("tcp", n.API)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ended(conn, time.Minute)
}

// trickle begins a request and goes on with it a byte at a time until the node answers or hangs up.
func trickle(t testing.TB, at *town.Town, n *town.Node, source net.IP, begin string) error {
	p, err := wire.Open(t.Context(), n.API, source, nil)
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := io.WriteString(p, begin); err != nil {
		return err
	}
	over := make(chan error, 1)
	go func() { over <- ended(p, time.Minute) }()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-over:
			return err
		case <-tick.C:
			_, _ = io.WriteString(p, "x") // it may have hung up: the other end of this says so
		}
	}
}

// ended reads until the node hangs up.
func ended(conn net.Conn, bound time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(bound)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errKept
	}
	return nil // at its end, or reset
}

// follow asks for the audit log from its beginning and what comes, and reads nothing of it for a while. The node has then
// closed the connection, and the system refuses what comes over it.
func follow(t testing.TB, at *town.Town, n *town.Node, source net.IP, pause time.Duration) error {
	own := at.Certificate(t)
	p, err := wire.Open(t.Context(), n.API, source, &own)
	if err != nil {
		return err
	}
	defer p.Close()
	if tcp, ok := p.NetConn().(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(16 << 10); err != nil {
			return err
		}
	}
	message := []byte(`{"fromIndex":"0","follow":true}`)
	envelope := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	_, err = fmt.Fprintf(p, "POST /warder.v1.AuditService/TailAudit HTTP/1.1\r\nHost: node\r\nContent-Type: application/connect+json\r\nContent-Length: %d\r\n\r\n%s%s",
		len(envelope)+len(message), envelope, message)
	if err != nil {
		return err
	}
	town.Pass(t, pause)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := p.Write([]byte("x")); err != nil {
			return nil
		}
	}
	return errKept
}

// overload asks ten times what a node can do. What is not done is refused with a reason and a hint, and the operator takes
// rights away in the midst of it.
func overload(t *testing.T) {
	long := time.Duration(times(5, 20)) * time.Second
	count := times(1500, 3000)
	allowFiles(t, uint64(count)+2000)
	at := town.New(t, town.Plan{Nodes: 1, Config: limits(""), Prepare: preferred})
	n, bots := at.Nodes[0], hireBots(t, at, 34)
	victims, bots := bots[:2], bots[2:]
	pipes := many(t, count, func(i int) (*wire.Pipe, error) {
		p, err := bots[i%len(bots)].pipe(t, at, n, from(i))
		if err == nil {
			_, err = p.Ask() // at once: a connection without a request is not kept
		}
		return p, err
	})
	defer hangUp(pipes)
	unloaded, capacity := closed(t, n, pipes[:1], long/4), closed(t, n, pipes[:64], long/2)
	t.Logf("one caller: %s", unloaded)
	t.Logf("64 callers: %s", capacity)
	records, memory := n.Gauge(t, "warder_audit_records"), n.Resident(t)

	over := flood(t, n, pipes, 10*capacity.rate())
	town.Pass(t, long/4)
	revoke(t, at, n, victims)
	town.Pass(t, long/2)
	peak := n.Resident(t)
	flooded, unsent := over()
	t.Logf("at ten times that, on %d connections: %s; %d found all connections taken", count, flooded, unsent)
	t.Logf("memory: %d MiB before, %d MiB at the end of it", memory>>20, peak>>20)
	judge(t, flooded, int(n.Gauge(t, "warder_audit_records")-records))
	if peak > overloadBytes {
		t.Errorf("the node takes %d MiB under overload; at most %d are promised", peak>>20, overloadBytes>>20)
	}
	again := closed(t, n, pipes[:64], long/4)
	t.Logf("64 callers, afterwards: %s", again)
	if again.lost > 0 || len(again.refused) > 0 {
		t.Error("the node does not serve as before when the overload is over")
	}
}

// preferred lets a node's requests to the processors go before its callers', where that is allowed: they stand for many
// machines, and are not to take this one away from it.
func preferred(_ testing.TB, _ int, n *town.Node) {
	if os.Geteuid() == 0 {
		n.Wrap = []string{"nice", "-n", "-10"}
	}
}

// overloadBytes is what a node may take of memory under this overload, at most.
const overloadBytes = 512 << 20

// judge holds what came of a flood against what is promised.
func judge(t testing.TB, flooded *tally, records int) {
	t.Helper()
	for why := range flooded.refused {
		if why != "503" && why != "503 OVERLOADED" && why != "429" && why != "429 RATE_LIMITED" {
			t.Errorf("%d requests were refused with %s", flooded.refused[why], why)
		}
	}
	if flooded.unhinted > 0 {
		t.Errorf("%d refusals do not say when to come again", flooded.unhinted)
	}
	if flooded.lost > 0 {
		t.Errorf("%d requests got no answer", flooded.lost)
	}
	if len(flooded.times) == 0 || flooded.refused["503 OVERLOADED"] == 0 {
		t.Errorf("no overload: %s", flooded)
	}
	if records < flooded.answers() {
		t.Errorf("%d audit records for %d answers", records, flooded.answers())
	}
}

// revoke takes one bot's token and another's identity away, as the operator would, and sees that they hold no more.
func revoke(t testing.TB, at *town.Town, n *town.Node, victims []*bot) {
	t.Helper()
	operator := at.Dial(t, n)
	first, second := victims[0], victims[1]
	began := time.Now()
	_, err := operator.Tokens.RevokeToken(t.Context(), &warderv1.RevokeTokenRequest{Id: first.token.GetId(), ExpiresAt: first.token.GetExpiresAt()})
	if err != nil {
		t.Fatalf("revoking a token under overload: %v", err)
	}
	token := time.Since(began)
	_, err = operator.Identities.RevokeIdentity(client.Linearizable(t.Context()), &warderv1.RevokeIdentityRequest{Principal: botNamed(second.name)})
	if err != nil {
		t.Fatalf("revoking an identity under overload: %v", err)
	}
	t.Logf("under overload: a token revoked in %s, an identity in %s", token.Round(time.Millisecond), (time.Since(began) - token).Round(time.Millisecond))
	for i, victim := range victims {
		p, err := victim.pipe(t, at, n, from(i))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.Careful = true
		refusedSoon(t, victim, p)
	}
}

// refusedSoon waits until a right that was taken away is refused, and not for the overload. It fails where it is granted.
func refusedSoon(t testing.TB, victim *bot, p *wire.Pipe) {
	t.Helper()
	began := time.Now()
	town.Eventually(t, victim.name+" is refused", time.Minute, func() error {
		got, err := p.Ask()
		switch {
		case err != nil:
			return town.Final(err)
		case got.Status == http.StatusOK && time.Since(began) > work.StalenessBound:
			return town.Final(fmt.Errorf("it is granted what was taken away %s ago", time.Since(began)))
		case got.Status == http.StatusOK || got.Reason == warderv1.Reason_REASON_OVERLOADED:
			return fmt.Errorf("the answer is %d %s", got.Status, got.Reason)
		case got.Reason != warderv1.Reason_REASON_TOKEN_REVOKED && got.Reason != warderv1.Reason_REASON_CERTIFICATE_UNKNOWN && got.Reason != warderv1.Reason_REASON_CERTIFICATE_WRONG_KEY:
			return town.Final(fmt.Errorf("the answer is %d %s", got.Status, got.Reason))
		}
		t.Logf("%s: %s, %s after the acknowledgement", victim.name, got.Reason, time.Since(began).Round(time.Millisecond))
		return nil
	})
}
