package daemon_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The callers of these benchmarks are another process, so that the CPU time of this one is the server's.

// callerVariable makes the test's own executable the caller.
const callerVariable = "WARDER_BENCH_CALLER"

func TestMain(m *testing.M) {
	if os.Getenv(callerVariable) == "" {
		os.Exit(m.Run())
	}
	if err := callAll(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// load is what the caller's process is told to do: the same request, so many times over so many kept connections.
type load struct {
	Address, Certificate, Key string
	Request                   []byte
	Connections, Count        int
	// Rate is how many requests are offered a second, by all connections together; 0: as many as are answered.
	Rate int
}

// callAll connects, says so, waits for a line, and makes the calls.
func callAll(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var l load
	if err := json.Unmarshal(text, &l); err != nil {
		return err
	}
	connections, err := l.connect()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	if _, err := lines.ReadBytes('\n'); err != nil {
		return err
	}
	var asked atomic.Int64
	began := time.Now()
	ended := make(chan error, len(connections))
	for _, c := range connections {
		go func() { ended <- l.call(c, &asked, began) }()
	}
	for range connections {
		err = errors.Join(err, <-ended)
	}
	return err
}

func (l *load) connect() ([]net.Conn, error) {
	certificate, err := tls.X509KeyPair([]byte(l.Certificate), []byte(l.Key))
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, //nolint:gosec // the server's name is not what is measured
	}
	connections := make([]net.Conn, l.Connections)
	for i := range connections {
		if connections[i], err = tls.Dial("tcp", l.Address, cfg); err != nil {
			return nil, err
		}
	}
	return connections, nil
}

// call asks, each request when it is due, and reads whole answers until none is left to ask.
func (l *load) call(c net.Conn, asked *atomic.Int64, began time.Time) error {
	defer c.Close()
	answers := bufio.NewReader(c)
	for {
		number := asked.Add(1) - 1
		if number >= int64(l.Count) {
			return nil
		}
		if l.Rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(number) * time.Second / time.Duration(l.Rate))))
		}
		if _, err := c.Write(l.Request); err != nil {
			return err
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s, %w", answer.Status, text, err)
		}
	}
}

// rawPost writes a request of HTTP/1.1 as it goes over the wire.
func rawPost(host, path, token, body string) []byte {
	authorization := ""
	if token != "" {
		authorization = "Authorization: Bearer " + token + "\r\n"
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		path, host, authorization, len(body), body)
}

// underLoad makes b.N requests from another process and reports this one's CPU time for each.
func underLoad(b *testing.B, who caller, address string, connections, rate int, request []byte) {
	b.Helper()
	chain, key := pemOf(b, who.certificate)
	text, err := json.Marshal(load{Address: address, Certificate: chain, Key: key, Request: request, Connections: connections, Count: b.N, Rate: rate})
	if err != nil {
		b.Fatal(err)
	}
	child := exec.CommandContext(b.Context(), os.Args[0])
	child.Env = append(os.Environ(), callerVariable+"=1")
	child.Stderr = os.Stderr
	in, inErr := child.StdinPipe()
	out, outErr := child.StdoutPipe()
	if err := errors.Join(inErr, outErr, child.Start()); err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(in, "%s\n", text)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatalf("the caller did not connect: %v, %v", err, child.Wait())
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	fmt.Fprintln(in)
	if err := child.Wait(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
}

// processorTime is what this process has used of the processors, in its own code and in the kernel.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func pemOf(b *testing.B, certificate *tls.Certificate) (chain, key string) {
	b.Helper()
	for _, der := range certificate.Certificate {
		chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		b.Fatal(err)
	}
	return chain, string(pemKey(der))
}

// BenchmarkServer gives the server's CPU time of each request over HTTP/1.1, between two runs of its floor: a plain
// handler over mutual TLS 1.3 that answers 256 bytes. What a request costs depends on how many are offered: a server
// without a pause pays nothing to fall asleep and be woken. So floor and requests are offered alike.
func BenchmarkServer(b *testing.B) {
	n, bot := benchNode(b)
	plain := plainServer(b, n.roots)
	for _, offered := range []struct{ connections, rate int }{{16, 0}, {64, 0}, {64, 2000}, {64, 5000}} {
		name := func(what string) string { return fmt.Sprintf("%s/%d@%d", what, offered.connections, offered.rate) }
		floor := func(b *testing.B) {
			underLoad(b, bot, plain, offered.connections, offered.rate, rawPost(plain, "/", "", `{"namespace":"default","name":"static"}`))
		}
		b.Run(name("floor-T"), floor)
		for _, one := range hotRequests() {
			token := bot.token
			if one.alone {
				token = ""
			}
			b.Run(name(one.name), func(b *testing.B) {
				underLoad(b, bot, n.cfg.API.Advertise, offered.connections, offered.rate, rawPost(n.cfg.API.Advertise, one.procedure, token, one.body))
			})
		}
		b.Run(name("floor-T-again"), floor)
	}
}

// plainServer is floor T.
func plainServer(b *testing.B, roots *x509.CertPool) string {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	if err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, 256)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			_, _ = w.Write(answer) // a caller that went is no fault
		}
	})}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) }) // it ends with http.ErrServerClosed
	b.Cleanup(func() { _ = server.Close(); served.Wait() })
	return listener.Addr().String()
}

// BenchmarkFloor gives what a machine can do at best: one Ed25519 signature (S), and an append of 300 bytes that is
// durable (D), in the directory where the benchmarks' nodes write.
func BenchmarkFloor(b *testing.B) {
	b.Run("S", func(b *testing.B) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		message := make([]byte, 256)
		for b.Loop() {
			ed25519.Sign(key, message)
		}
	})
	b.Run("D", func(b *testing.B) {
		file, err := os.OpenFile(filepath.Join(b.TempDir(), "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		record := make([]byte, 300)
		for b.Loop() {
			if _, err := file.Write(record); err != nil {
				b.Fatal(err)
			}
			if err := unix.Fdatasync(int(file.Fd())); err != nil {
				b.Fatal(err)
			}
		}
	})
}
