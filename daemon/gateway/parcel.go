package gateway

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"time"

	"warder/daemon/ratelimit"
)

// parcel is what one request holds until it ends: its time, and memory for its headers and for its body as that comes.
// Where there is none, reading the body says so: nothing else looks at a request before somebody reads it.
type parcel struct {
	io.ReadCloser // the body
	writer        http.ResponseWriter
	term          interface{ end() }

	memory  *ratelimit.Pool
	from    netip.Prefix
	held    int64
	refused error
}

// ender is a term that is only a function.
type ender func()

func (e ender) end() { e() }

// What a request takes in memory beside the bytes of its headers and its body, as measured on Go 1.26 (amd64): stacks, buffers
// and what is made for every one; and a place in the table of headers for each name and each value.
const (
	requestSize = 16 << 10
	headerSize  = 128
	valueSize   = 16
)

// open takes the memory for a request's headers.
func (p *parcel) open(r *http.Request) {
	size := requestSize + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		size += headerSize + len(name)
		for _, value := range values {
			size += valueSize + len(value)
		}
	}
	p.from = neighbourhoodOf(r.RemoteAddr)
	p.take(size)
}

func (p *parcel) take(bytes int) {
	if p.refused = p.memory.Take(p.from, int64(bytes)); p.refused == nil {
		p.held += int64(bytes)
	}
}

// done gives everything back at the request's end.
func (p *parcel) done() {
	p.memory.Give(p.from, p.held)
	p.term.end()
}

// Read implements io.Reader. It takes the read deadline away when the body is complete: the server goes on reading, to
// notice that the caller has gone, and must not take the deadline for that.
func (p *parcel) Read(b []byte) (int, error) {
	if p.refused != nil {
		return 0, p.refused
	}
	n, err := p.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) {
		_ = http.NewResponseController(p.writer).SetReadDeadline(time.Time{})
	}
	if n > 0 {
		p.take(n)
	}
	if p.refused != nil {
		return 0, p.refused
	}
	return n, err
}
