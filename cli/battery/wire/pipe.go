package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
)

// Pipe is one connection to a server of HTTP/1.1, for one request at a time.
type Pipe struct {
	*tls.Conn
	// Request is what Ask writes.
	Request []byte
	// Careful looks into the body of every refusal.
	Careful bool
	answers *bufio.Reader
	asked   int
}

// Open connects from an address of this machine, as the holder of a certificate, or as nobody. Whether the server is the
// right one is not looked at.
func Open(ctx context.Context, address string, source net.IP, certificate *tls.Certificate) (*Pipe, error) {
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: source}}, Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Pipe{Conn: conn.(*tls.Conn), answers: bufio.NewReaderSize(conn, 2<<10)}, nil
}

// Get asks for a path, and keeps the connection.
func (p *Pipe) Get(path string) (int, error) {
	p.Request = []byte("GET " + path + " HTTP/1.1\r\nHost: node\r\n\r\n")
	a, err := p.Ask()
	return a.Status, err
}

// Answer is what a node said: its status and, of a refusal, why and when to come again.
type Answer struct {
	Status int
	Reason warderv1.Reason // of a refusal whose body was looked into
	Hinted bool            // says when to come again
}

// Ask makes the pipe's request once.
func (p *Pipe) Ask() (Answer, error) {
	if _, err := p.Write(p.Request); err != nil {
		return Answer{}, err
	}
	got, length, err := p.head()
	if err != nil {
		return Answer{}, err
	}
	p.asked++
	if got.Status == http.StatusOK || !p.Careful && p.asked%looks != 0 {
		_, err := p.answers.Discard(length)
		return got, err
	}
	body := make([]byte, length)
	_, err = io.ReadFull(p.answers, body)
	info := detail(body)
	got.Reason, got.Hinted = info.GetReason(), got.Hinted && info.GetRetryAfter().AsDuration() > 0
	return got, err
}

// looks is how rarely the body of a refusal is looked into: the node is to be loaded, and not its callers. The others
// are told by their status, and by the header that says when to come again.
const looks = 16

// head reads an answer up to its body, and gives the body's length.
func (p *Pipe) head() (got Answer, length int, err error) {
	for first := true; ; first = false {
		line, err := p.answers.ReadSlice('\n')
		line = bytes.TrimRight(line, "\r\n")
		switch name, value, _ := bytes.Cut(line, []byte(": ")); {
		case err != nil:
			return got, 0, err
		case first && len(line) >= 12:
			got.Status, err = strconv.Atoi(string(line[9:12]))
		case len(line) == 0:
			return got, length, nil
		case string(name) == "Content-Length":
			length, err = strconv.Atoi(string(value))
		case string(name) == "Retry-After":
			got.Hinted = len(value) > 0
		case string(name) == "Transfer-Encoding":
			err = fmt.Errorf("an answer without a length: %s", line)
		}
		if err != nil {
			return got, 0, err
		}
	}
}

// Why names a refusal: 503 or, where its body was looked into, "503 OVERLOADED".
func (a Answer) Why() string {
	if a.Reason == 0 {
		return strconv.Itoa(a.Status)
	}
	return fmt.Sprintf("%d %s", a.Status, strings.TrimPrefix(a.Reason.String(), "REASON_"))
}

// detail finds Warder's own words in a refusal of Connect's protocol; nil where it has none.
func detail(body []byte) *warderv1.ErrorInfo {
	var refusal struct {
		Details []struct {
			Value string `json:"value"`
		} `json:"details"`
	}
	if json.Unmarshal(body, &refusal) != nil || len(refusal.Details) == 0 {
		return nil
	}
	value, err := base64.RawStdEncoding.DecodeString(refusal.Details[0].Value)
	info := &warderv1.ErrorInfo{}
	if err != nil || proto.Unmarshal(value, info) != nil {
		return nil
	}
	return info
}

// Post writes a request as it goes over a Pipe, with a JSON body, and with a token where there is one.
func Post(path, token, body string) []byte {
	authorization := ""
	if token != "" {
		authorization = "Authorization: Bearer " + token + "\r\n"
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		path, authorization, len(body), body)
}
