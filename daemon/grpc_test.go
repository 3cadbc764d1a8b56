package daemon_test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// overGRPC is what came back over gRPC.
type overGRPC struct {
	http            int
	kind            string
	status, message string // of the trailers
	body            []byte
}

// framed is a message behind gRPC's prefix.
func framed(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

func (n *testNode) grpc(t testing.TB, who caller, procedure, timeout string, body []byte) overGRPC {
	t.Helper()
	request := n.request(t.Context(), who, procedure, body)
	request.ContentLength = -1 // as gRPC's own clients send it
	request.Header.Set("Content-Type", "application/grpc+proto")
	request.Header.Set("Te", "trailers")
	if timeout != "" {
		request.Header.Set("Grpc-Timeout", timeout)
	}
	got := who.ask(t, request)
	return overGRPC{
		got.status, got.header.Get("Content-Type"), got.trailer.Get("Grpc-Status"), lasting([]byte(got.trailer.Get("Grpc-Message"))), got.body,
	}
}

// overHTTP2 gives the caller on connections of HTTP/2.
func (c caller) overHTTP2(t testing.TB) caller {
	t.Helper()
	transport := c.http.Transport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = true
	t.Cleanup(transport.CloseIdleConnections)
	c.http = &http.Client{Transport: transport, Timeout: patience}
	return c
}

// TestDirectGRPCIsConnects asks the methods that have a handler of their own over gRPC, once in the plain form that goes to it
// and once with a time in hours, which goes to Connect's: the two answer alike, and each leaves one record.
func TestDirectGRPCIsConnects(t *testing.T) {
	n, bot := benchNode(t)
	bot = bot.overHTTP2(t)
	stranger, nobody := n.workload(t, "default", "stranger").overHTTP2(t), n.caller(t, nil).overHTTP2(t)
	for _, one := range hotRequests() {
		who := bot
		if one.alone {
			who.token = ""
		}
		good := requestOf(t, one.procedure, one.body)
		for name, body := range map[string][]byte{
			"good": framed(0, good), "an empty message": framed(0, nil), "nothing": nil, "half a prefix": {0, 0}, "a broken message": framed(0, good[:len(good)-1]),
			"cut off": framed(0, good)[:len(good)], "two messages": append(framed(0, good), framed(0, good)...), "a byte more": append(framed(0, good), 0),
			"compressed": framed(1, good), "an odd flag": framed(2, good), "too large": framed(0, make([]byte, 520<<10)),
			"an unknown field": framed(0, append(bytes.Clone(good), 0xfa, 0x07, 1, 'x')), "large": framed(0, append([]byte{0x0a, 0x80, 0x60}, make([]byte, 12<<10)...)),
		} {
			for of, caller := range map[string]caller{"its caller": who, "a stranger": stranger, "nobody": nobody} {
				before := n.records(t)
				direct, connects := n.grpc(t, caller, one.procedure, "", body), n.grpc(t, caller, one.procedure, "1H", body)
				if records := n.records(t) - before; records != 2 {
					t.Errorf("%s, %s, by %s: %d records; want 2", one.name, name, of, records)
				}
				if len(direct.body) == 0 != (len(connects.body) == 0) || one.procedure == reveal && !bytes.Equal(direct.body, connects.body) {
					t.Errorf("%s, %s, by %s: %x; Connect gives %x", one.name, name, of, direct.body, connects.body)
				}
				direct.body, connects.body = nil, nil
				if direct.http != connects.http || direct.kind != connects.kind || direct.status != connects.status || direct.message != connects.message {
					t.Errorf("%s, %s, by %s: %+v; Connect says %+v", one.name, name, of, direct, connects)
				}
				if name == "good" && of == "its caller" && direct.status != "0" {
					t.Errorf("%s: %+v", one.name, direct)
				}
			}
		}
	}
}

// TestGRPCTimes gives a call next to no time, a time that is none, and enough.
func TestGRPCTimes(t *testing.T) {
	n, bot := benchNode(t)
	bot = bot.overHTTP2(t)
	body := framed(0, requestOf(t, reveal, `{"namespace":"default","name":"static"}`))
	for timeout, want := range map[string]string{"5S": "0", "5000m": "0", "99999999u": "0", "1n": "4", "0S": "4", "soon": "3", "5": "3", "123456789S": "3"} {
		before := n.records(t)
		got := n.grpc(t, bot, reveal, timeout, body)
		if got.status != want {
			t.Errorf("%s: status %s %s; want %s", timeout, got.status, got.message, want)
		}
		if records := n.records(t) - before; records != 1 {
			t.Errorf("%s: %d records; want 1", timeout, records)
		}
	}
}

// requestOf gives the request of a procedure in protobuf's own form.
func requestOf(t testing.TB, procedure, body string) []byte {
	t.Helper()
	service, method, _ := bytes.Cut([]byte(procedure[1:]), []byte("/"))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	input := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method)).Input()
	made, err := protoregistry.GlobalTypes.FindMessageByName(input.FullName())
	if err != nil {
		t.Fatal(err)
	}
	message := made.New().Interface()
	if err := protojson.Unmarshal([]byte(body), message); err != nil {
		t.Fatal(err)
	}
	wire, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}
