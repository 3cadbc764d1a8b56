package rpc

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"testing"
	"testing/iotest"
	"time"
)

// FuzzReadFramed: what is read is the one message that the body is, or else what came is the front of the body.
func FuzzReadFramed(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 2, 'a', 'b'})
	f.Add([]byte{0, 0, 0, 0, 2, 'a', 'b', 'c'})
	f.Add([]byte{1, 0, 0, 0, 1, 'a'})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		message, came := readFramed(iotest.OneByteReader(bytes.NewReader(body)))
		if message == nil {
			if !bytes.HasPrefix(body, came) {
				t.Errorf("%x is not the front of %x", came, body)
			}
			return
		}
		if whole := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...); !bytes.Equal(whole, body) || len(message) > maxDirect {
			t.Errorf("%x of %x", message, body)
		}
	})
}

// FuzzGRPCTimeout: a time that is taken is positive and what its text says.
func FuzzGRPCTimeout(f *testing.F) {
	for _, seed := range []string{"1n", "99999999S", "1H", "0m", "S", "+1S", "123456789m"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		timeout, plain := grpcTimeout(http.Header{"Grpc-Timeout": {text}})
		if plain && (timeout <= 0 || timeout > 99_999_999*time.Minute || len(text) < 2 || text[0] < '0' || text[0] > '9') {
			t.Errorf("%q: %s", text, timeout)
		}
	})
}
