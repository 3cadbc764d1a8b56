package pkcs11_test

import (
	"bytes"
	"errors"
	"testing"

	"warder/hsm"
	"warder/hsm/pkcs11"
)

func TestFrameRoundTrip(t *testing.T) {
	want := pkcs11.Frame{ID: 7, Code: 3, Fields: [][]byte{{}, []byte("a"), bytes.Repeat([]byte{1}, 1000)}}
	buf, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := pkcs11.ReadFrame(bytes.NewReader(buf))
	if err != nil || got.ID != want.ID || got.Code != want.Code || len(got.Fields) != 3 || !bytes.Equal(got.Fields[2], want.Fields[2]) {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range buf {
		if _, err := pkcs11.ReadFrame(bytes.NewReader(buf[:n])); err == nil {
			t.Errorf("a frame cut at %d was read", n)
		}
	}
}

func TestFrameSizesAreBounded(t *testing.T) {
	if _, err := (pkcs11.Frame{Fields: [][]byte{make([]byte, 64<<10)}}).Encode(); !errors.Is(err, hsm.ErrBadInput) {
		t.Errorf("too long a frame gave %v", err)
	}
	if _, err := (pkcs11.Frame{Fields: make([][]byte, 17)}).Encode(); !errors.Is(err, hsm.ErrBadInput) {
		t.Errorf("too many fields gave %v", err)
	}
}

// FuzzReadFrame: what is read is written again to the same bytes, and nothing panics.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x05\x00\x00\x00\x01\x02"))
	f.Add([]byte("\x00\x00\x00\x0b\x00\x00\x00\x01\x02\x00\x00\x00\x02hi"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := pkcs11.ReadFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := frame.Encode()
		if err != nil || !bytes.HasPrefix(data, again) {
			t.Errorf("read %x, wrote %x (%v)", data, again, err)
		}
	})
}
