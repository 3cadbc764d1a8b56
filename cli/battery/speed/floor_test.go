//go:build battery

package speed_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"warder/cli/battery/town"
)

// plainVariable makes the test's own executable floor T's server. Its value is the file with the callers' authority.
const plainVariable = "WARDER_SPEED_PLAIN"

// startPlain starts floor T: a plain net/http handler over mutual TLS 1.3 that answers a POST with 256 bytes. Over HTTP/2
// they are a gRPC message of one field that no type has.
func startPlain(t testing.TB, at *town.Town) *server {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), plainVariable+"="+filepath.Join(at.Dir, "operator", "ca.pem"))
	child.Stderr = os.Stderr
	in, inErr := child.StdinPipe()
	out, outErr := child.StdoutPipe()
	if err := errors.Join(inErr, outErr, child.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = child.Wait() }) // it ends with its input
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("floor T's server does not start: %v", err)
	}
	return &server{address: strings.TrimSpace(address), pid: child.Process.Pid}
}

// servePlain says its address, and serves until its input ends.
func servePlain(in io.Reader, out io.Writer) error {
	roots, err := os.ReadFile(os.Getenv(plainVariable))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{certificate},
		NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		return err
	}
	answer := make([]byte, 256)
	message := protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), answer[:250])
	framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	plain := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if r.ProtoMajor == 1 {
			_, _ = w.Write(answer) // a caller that went is no fault
			return
		}
		w.Header()["Content-Type"], w.Header()["Trailer"] = []string{"application/grpc+proto"}, []string{"Grpc-Status"}
		_, _ = w.Write(framed) // as above
		w.Header()["Grpc-Status"] = []string{"0"}
	})}
	fmt.Fprintln(out, listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = plain.Close()
	}()
	if err := plain.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// floorS is the CPU time of one Ed25519 signature, in microseconds.
func floorS(t testing.TB, long time.Duration) float64 {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	message, before, count := make([]byte, 256), ownTime(t), 0
	for began := time.Now(); time.Since(began) < long; count++ {
		ed25519.Sign(key, message)
	}
	return (ownTime(t) - before).Seconds() * 1e6 / float64(count)
}

// floorD is how many appends of 300 bytes with fdatasync a disk does in a second, one writer.
func floorD(t testing.TB, dir string, long time.Duration) float64 {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(dir, "floor-d"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	record, count, began := make([]byte, 300), 0, time.Now()
	for ; time.Since(began) < long; count++ {
		if _, err := file.Write(record); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			t.Fatal(err)
		}
	}
	return float64(count) / time.Since(began).Seconds()
}

// ownTime is what this process has used of the processors.
func ownTime(t testing.TB) time.Duration {
	t.Helper()
	runtime.GC() // what was before is not to be paid for in what follows
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
