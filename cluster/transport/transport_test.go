package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"warder/cluster/clustertest"
	"warder/cluster/transport"
)

func listen(t *testing.T, auth transport.TLS) (transport.Network, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	network, err := transport.Listen(listener, auth, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	return network, listener.Addr().String()
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestStreamsKnowTheirPeers(t *testing.T) {
	ca := clustertest.NewCA(t, "example.test")
	server, addr := listen(t, ca.Node("n1"))
	client, _ := listen(t, ca.Node("n2"))
	for _, protocol := range []transport.Protocol{transport.Raft, transport.Forward} {
		conn, err := client.Dial(within(t), "n1", addr, protocol)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		stream, err := server.Accept()
		if err != nil || stream.Peer != "n2" || stream.Protocol != protocol {
			t.Fatalf("got peer %q, protocol %q, %v", stream.Peer, stream.Protocol, err)
		}
		server.Cut("n2")
		if _, err := io.ReadAll(conn); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Logf("a cut stream ends with %v", err)
		}
	}
}

// TestRefusals: each row is a peer that must not get a stream, seen from the side that refuses.
func TestRefusals(t *testing.T) {
	ca, other := clustertest.NewCA(t, "example.test"), clustertest.NewCA(t, "example.test")
	foreign := ca.In("elsewhere.test")
	for name, row := range map[string]struct {
		server, client transport.TLS
		meant          string
	}{
		"another node answers":      {ca.Node("n3"), ca.Node("n2"), "n1"},
		"server of another CA":      {other.Node("n1"), ca.Node("n2"), "n1"},
		"client of another CA":      {ca.Node("n1"), clustertest.Join(other.Node("n2"), ca.Node("n2").Roots), "n1"},
		"foreign trust domain":      {ca.Node("n1"), foreign.Node("n2"), "n1"},
		"client is expired":         {ca.Node("n1"), ca.At(time.Now().Add(-48 * time.Hour)).Node("n2"), "n1"},
		"client is not yet valid":   {ca.Node("n1"), ca.At(time.Now().Add(48 * time.Hour)).Node("n2"), "n1"},
		"client is a workload":      {ca.Node("n1"), ca.Named("spiffe://example.test/ns/a/workload/n2"), "n1"},
		"client's name is spelled":  {ca.Node("n1"), ca.Named("spiffe://example.test/node/N2"), "n1"},
		"client's name has a query": {ca.Node("n1"), ca.Named("spiffe://example.test/node/n2?x"), "n1"},
		"server admits nobody":      {refuse(ca.Node("n1")), ca.Node("n2"), "n1"},
		"client has no certificate": {ca.Node("n1"), without(ca.Node("n2")), "n1"},
		"server has no roots":       {blind(ca.Node("n1")), ca.Node("n2"), "n1"},
	} {
		t.Run(name, func(t *testing.T) {
			server, addr := listen(t, row.server)
			client, _ := listen(t, row.client)
			got := make(chan error, 1)
			go func() {
				_, err := server.Accept()
				got <- err
			}()
			conn, err := client.Dial(within(t), row.meant, addr, transport.Raft)
			if err == nil { // in TLS 1.3 a client hears of its refusal when it reads
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil {
				t.Error("the stream was given")
			}
			select {
			case err := <-got:
				t.Errorf("the server accepted: %v", err)
			default:
			}
		})
	}
}

func refuse(auth transport.TLS) transport.TLS {
	auth.Admit = func(string, *x509.Certificate) error { return errors.New("nobody") }
	return auth
}

func without(auth transport.TLS) transport.TLS {
	auth.Certificate = func() *tls.Certificate { return nil }
	return auth
}

func blind(auth transport.TLS) transport.TLS {
	auth.Roots = func() *x509.CertPool { return nil }
	return auth
}

func TestRenewedCertificateIsUsedAtOnce(t *testing.T) {
	ca := clustertest.NewCA(t, "example.test")
	current := ca.At(time.Now().Add(-48 * time.Hour)).Node("n1")
	auth := current
	auth.Certificate = func() *tls.Certificate { return current.Certificate() }
	_, addr := listen(t, auth)
	client, _ := listen(t, ca.Node("n2"))
	if _, err := client.Dial(within(t), "n1", addr, transport.Raft); err == nil {
		t.Fatal("an expired certificate was accepted")
	}
	current = ca.Node("n1")
	if _, err := client.Dial(within(t), "n1", addr, transport.Raft); err != nil {
		t.Fatal(err)
	}
}

func TestVersion12IsRefused(t *testing.T) {
	ca := clustertest.NewCA(t, "example.test")
	_, addr := listen(t, ca.Node("n1"))
	conn, err := tls.Dial("tcp", addr, &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true})
	if err == nil {
		t.Errorf("TLS 1.2 was accepted: %v", conn.Close())
	}
}

func FuzzNodeID(f *testing.F) {
	f.Add("spiffe://example.test/node/n1")
	f.Add("spiffe://example.test/node/N1")
	f.Add("spiffe://user@example.test:1/node/n1?q#f")
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := url.Parse(text)
		if err != nil {
			return
		}
		domain, id, err := transport.NodeID(&x509.Certificate{URIs: []*url.URL{uri}})
		if err == nil && "spiffe://"+domain+"/node/"+id != uri.String() {
			t.Errorf("%q is taken for %s in %s", text, id, domain)
		}
	})
}

// TestOneAddressDoesNotShutOthersOut: anybody can connect and say nothing.
func TestOneAddressDoesNotShutOthersOut(t *testing.T) {
	ca := clustertest.NewCA(t, "example.test")
	_, addr := listen(t, ca.Node("n1"))
	client, _ := listen(t, ca.Node("n2"))
	hostile := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 100 {
		conn, err := hostile.DialContext(within(t), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	conn, err := client.Dial(within(t), "n1", addr, transport.Raft)
	if err != nil {
		t.Fatalf("a member cannot connect: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
