package credential

import (
	"bytes"
	"encoding/hex"
	"testing"

	"warder/keystore"
)

func TestCodec(t *testing.T) {
	v := Values{"b": keystore.NewSecret([]byte("xyz")), "a": keystore.NewSecret([]byte{0})}
	s, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(s.Reveal()); got != "0102"+"0161"+"0000000100"+"0162"+"0000000378797a" {
		t.Errorf("got %s", got)
	}
	if cap(s.Reveal()) != s.Len() {
		t.Error("it grew: copies were left behind")
	}
}

func FuzzDecode(f *testing.F) {
	s, err := encode(Values{"b": keystore.NewSecret([]byte("xyz")), "a": keystore.NewSecret([]byte{0})})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Reveal())
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decode(keystore.NewSecret(bytes.Clone(b)))
		if err != nil {
			return
		}
		again, err := encode(v)
		if err == nil && !bytes.Equal(again.Reveal(), b) {
			t.Fatalf("decoded and encoded, it is another: %x, %x", b, again.Reveal())
		}
	})
}
