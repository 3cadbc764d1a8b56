package gateway_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"warder/daemon/gateway"
)

func TestOversizeBodyAndHeaders(t *testing.T) {
	r := serve(t, gateway.Config{Limits: gateway.Limits{BodyBytes: 1000, HeaderBytes: 4096}})
	for _, http2 := range []bool{false, true} {
		c := client(t, clientConfig(), http2)
		if resp, body := fetch(t, c, "POST", "https://"+r.address, strings.NewReader(strings.Repeat("x", 1000))); resp.StatusCode != 200 || len(body) != 1000 {
			t.Errorf("http2 %v: body at the limit: %d", http2, resp.StatusCode)
		}
		resp, body := fetch(t, c, "POST", "https://"+r.address, io.MultiReader(strings.NewReader(strings.Repeat("x", 1001))))
		if !strings.Contains(body, "too large") {
			t.Errorf("http2 %v: body beyond the limit: %d %d bytes", http2, resp.StatusCode, len(body))
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+r.address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
		if resp, err := c.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("http2 %v: long headers: %d", http2, resp.StatusCode)
			}
		} else if !http2 {
			t.Errorf("long headers: %v", err)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	for name, limits := range map[string]gateway.Limits{"total": {Connections: 2}, "one address": {ConnectionsPerAddress: 2}} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, gateway.Config{Limits: limits})
			var open []*tls.Conn
			for range 2 {
				conn, err := tls.Dial("tcp", r.address, clientConfig())
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, conn)
			}
			if conn, err := tls.Dial("tcp", r.address, clientConfig()); err == nil {
				conn.Close()
				t.Error("a third connection is served")
			}
			open[0].Close()
			deadline := time.Now().Add(10 * time.Second)
			for {
				conn, err := tls.Dial("tcp", r.address, clientConfig())
				if err == nil {
					conn.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the place of a closed connection is not given free")
				}
			}
			open[1].Close()
		})
	}
}

// TestMemoryIsBounded: what one request holds another cannot have, until it ends; its headers count too.
func TestMemoryIsBounded(t *testing.T) {
	came := make(chan struct{})
	whole := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			if _, err := io.ReadFull(r.Body, make([]byte, 60_000)); err != nil {
				t.Error(err)
			}
			came <- struct{}{}
		}
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	for _, http2 := range []bool{false, true} {
		c := client(t, clientConfig(), http2)
		var url string
		begin := func() { // anew: a request may hold its memory for a moment after its answer
			url = "https://" + serve(t, gateway.Config{Handler: whole, Limits: gateway.Limits{Memory: 1 << 20, MemoryPerAddress: 110_000}}).address
		}
		full := func(body io.Reader) bool {
			_, text := fetch(t, c, "POST", url, body)
			return strings.Contains(text, "memory for requests is full")
		}
		begin()
		if full(strings.NewReader(strings.Repeat("x", 90_000))) {
			t.Errorf("http2 %v: what fits is refused", http2)
		}
		begin()
		if !full(strings.NewReader(strings.Repeat("x", 100_000))) {
			t.Errorf("http2 %v: one request holds more than its address may", http2)
		}
		begin()
		reader, writer := io.Pipe()
		first := make(chan struct{})
		go func() {
			defer close(first)
			if resp, err := c.Post(url+"/slow", "text/plain", reader); err == nil {
				resp.Body.Close()
			}
		}()
		if _, err := writer.Write(make([]byte, 60_000)); err != nil {
			t.Fatal(err)
		}
		<-came
		if !full(strings.NewReader(strings.Repeat("x", 60_000))) {
			t.Errorf("http2 %v: two hold more than their address may", http2)
		}
		if full(strings.NewReader("small")) {
			t.Errorf("http2 %v: a small request finds no room", http2)
		}
		writer.Close()
		<-first
		for deadline := time.Now().Add(10 * time.Second); full(strings.NewReader(strings.Repeat("x", 60_000))); {
			if time.Now().After(deadline) {
				t.Fatalf("http2 %v: what a request held is not given back", http2)
			}
		}
	}
	r := serve(t, gateway.Config{Handler: whole, Limits: gateway.Limits{MemoryPerAddress: 20_000}})
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+r.address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 10_000))
	resp, err := client(t, clientConfig(), true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "memory for requests is full") {
		t.Errorf("long headers: %d %q %v", resp.StatusCode, text, err)
	}
}

// TestFramesAreBounded: the server makes room for a frame before it looks at it, so it must not take one of any size.
func TestFramesAreBounded(t *testing.T) {
	r := serve(t, gateway.Config{})
	conn, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // as above
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	unknown := "\x00\x40\x01\xfa\x00\x00\x00\x00\x00" // the head of one of 16 KiB and a byte, of which nothing follows
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings+unknown); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			t.Fatal(err)
		}
		if head[3] == 7 { // GOAWAY
			if len(payload) < 8 || payload[7] != 6 { // FRAME_SIZE_ERROR (RFC 9113, section 7)
				t.Errorf("GOAWAY with %x", payload)
			}
			return
		}
	}
}
