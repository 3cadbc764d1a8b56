package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// What is here of gRPC is a call of one message and its answer of one
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). Refusals are written by Connect.

// prefixSize is the length of what stands before a message: a flag, which says whether it is compressed, and its length u32.
const prefixSize = 5

// plainGRPC reports whether a request of gRPC's content type is one that a direct handler takes.
func plainGRPC(r *http.Request) bool {
	encoding, encoded := r.Header["Grpc-Encoding"]
	return r.ProtoMajor == 2 && (!encoded || slices.Equal(encoding, []string{"identity"}))
}

// readFramed reads one message, and the body's end behind it. Where there is anything else the message is nil, and came is what was
// read.
func readFramed(body io.Reader) (message, came []byte) {
	came = make([]byte, prefixSize, 512)
	if n, err := io.ReadFull(body, came); err != nil {
		return nil, came[:n]
	}
	size := binary.BigEndian.Uint32(came[1:])
	if came[0] != 0 || size > maxDirect {
		return nil, came
	}
	came = slices.Grow(came, int(size)+1)[:prefixSize+int(size)+1]
	n, err := io.ReadFull(body, came[prefixSize:]) // a byte more than the message has: it must not come
	if n != int(size) || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, came[:prefixSize+n]
	}
	return came[prefixSize : prefixSize+n], nil
}

// writeFramed sends an answer of one message, and that all went well.
func writeFramed(w http.ResponseWriter, message []byte) {
	header := w.Header()
	prefix := binary.BigEndian.AppendUint32(make([]byte, 1, prefixSize), uint32(len(message)))
	if _, err := w.Write(prefix); err == nil { // else the caller went away: there is nobody left to tell
		_, _ = w.Write(message) // as above
	}
	header[http.TrailerPrefix+"Grpc-Status"] = []string{"0"}
}

// grpcTimeout reads the time that the caller gives, 0 for none; false where Connect is to say what is wrong with it.
func grpcTimeout(header http.Header) (time.Duration, bool) {
	given, present := header["Grpc-Timeout"]
	if !present {
		return 0, true
	}
	if len(given) != 1 || len(given[0]) < 2 || len(given[0]) > 9 {
		return 0, false
	}
	digits, unit := given[0][:len(given[0])-1], given[0][len(given[0])-1]
	number, err := strconv.ParseUint(digits, 10, 32)
	length := map[byte]time.Duration{'n': time.Nanosecond, 'u': time.Microsecond, 'm': time.Millisecond, 'S': time.Second, 'M': time.Minute}[unit]
	timeout := time.Duration(number) * length
	return timeout, err == nil && timeout > 0
}
