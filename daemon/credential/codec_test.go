package credential

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"warder/keystore"
)

// vector is a row of testdata/material.json: values and material in hexadecimal.
type vector struct {
	Fields   map[string]string `json:"fields"`
	Material string            `json:"material"`
}

func TestCodecVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/material.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		values := Values{}
		for name, written := range v.Fields {
			b, err := hex.DecodeString(written)
			if err != nil {
				t.Fatal(err)
			}
			values[name] = keystore.NewSecret(b)
		}
		s, err := encode(values)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(s.Reveal()); got != v.Material {
			t.Errorf("got %s, want %s", got, v.Material)
		}
		if cap(s.Reveal()) != s.Len() {
			t.Error("it grew: copies were left behind")
		}
		if back, err := decode(s); err != nil || len(back) != len(values) {
			t.Errorf("decoded: %v", err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, written := range map[string]string{
		"empty": "", "another version": "0201016100000000", "no fields": "0100", "too many": "0111", "cut": "01010161" + "000000",
		"value too long": "01010161" + "00000005" + "78", "trailing": "010101610000000000", "not ascending": "01020162000000000161" + "00000000",
		"twice": "0102016100000000016100000000", "no name": "01010000000000",
	} {
		b, err := hex.DecodeString(written)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(keystore.NewSecret(b)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
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
