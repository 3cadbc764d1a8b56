package gateway_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"warder/daemon/gateway"
)

// TestSlowClients: a connection that says nothing, one that stops in its headers and one that stops in its body are
// each ended by the server.
func TestSlowClients(t *testing.T) {
	handled := make(chan error, 1)
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{HeaderTimeout: 100 * time.Millisecond, RequestTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			handled <- err
		}),
	})
	silent, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	wantClosed(t, "no handshake", silent)
	for name, text := range map[string]string{
		"half a header": "GET / HTTP/1.1\r\nHost: x\r\nX-",
		"half a body":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"idle":          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	} {
		conn, err := tls.Dial("tcp", r.address, clientConfig())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		wantClosed(t, name, conn)
		conn.Close()
		if name == "half a body" {
			if err := <-handled; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the handler read %v", err)
			}
		} else if name == "idle" {
			if err := <-handled; err != nil {
				t.Errorf("the handler read %v", err)
			}
		}
	}
}

func wantClosed(t *testing.T, name string, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the server did not end the connection", name)
	}
}

func TestSlowHandlerLosesItsContext(t *testing.T) {
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{RequestTimeout: 50 * time.Millisecond},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			fmt.Fprint(w, context.Cause(r.Context()))
		}),
	})
	if _, body := fetch(t, client(t, clientConfig(), false), "GET", "https://"+r.address, nil); body != context.DeadlineExceeded.Error() {
		t.Errorf("answer %q", body)
	}
}

// TestStreamOutlivesTheRequestTimeout, with a body and without one.
func TestStreamOutlivesTheRequestTimeout(t *testing.T) {
	const timeout = 50 * time.Millisecond
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{RequestTimeout: timeout},
		Stream: func(*http.Request) bool { return true },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-time.After(4 * timeout):
				fmt.Fprint(w, "still here")
			case <-r.Context().Done():
			}
		}),
	})
	for _, http2 := range []bool{false, true} {
		for _, body := range []string{"", "x"} {
			if _, text := fetch(t, client(t, clientConfig(), http2), "POST", "https://"+r.address, strings.NewReader(body)); text != "still here" {
				t.Errorf("http2 %v, body %q: %q", http2, body, text)
			}
		}
	}
}

// TestFollowerThatDoesNotRead: a stream may last, but what is sent on it must be taken.
func TestFollowerThatDoesNotRead(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2 %v", http2), func(t *testing.T) {
			ended := make(chan struct{})
			r := serve(t, gateway.Config{
				Limits: gateway.Limits{RequestTimeout: 200 * time.Millisecond},
				Stream: func(*http.Request) bool { return true },
				Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					defer close(ended)
					for piece := make([]byte, 64<<10); ; {
						if _, err := w.Write(piece); err != nil {
							return
						}
						w.(http.Flusher).Flush()
					}
				}),
			})
			resp, err := client(t, clientConfig(), http2).Get("https://" + r.address)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the stream goes on though nobody reads it")
			}
		})
	}
}
