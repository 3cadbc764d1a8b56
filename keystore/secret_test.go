package keystore_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"warder/keystore"
)

const canary = "canary-7f3a9c"

// TestSecretPrintsNothing puts a secret through every printer, alone, in fields and behind pointers.
func TestSecretPrintsNothing(t *testing.T) {
	s := secret(canary)
	type holder struct {
		Public  keystore.Secret
		private keystore.Secret
		pointer *keystore.Secret
		list    []keystore.Secret
		any     any
	}
	h := holder{s, s, &s, []keystore.Secret{s}, s}
	var out bytes.Buffer
	for verb := 'A'; verb <= 'z'; verb++ {
		for _, flag := range []string{"", "+", "#", "-20", "020", ".3", " "} {
			format := "%" + flag + string(verb)
			for _, v := range []any{s, &s, h, &h, []any{s}, map[string]any{"s": s}, errors.Join(fmt.Errorf(format, s))} {
				fmt.Fprintf(&out, format, v)
			}
		}
	}
	fmt.Fprint(&out, s, h)
	fmt.Fprintln(&out, s, h)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).With("s", s).Info("m", "s", s, "p", &s, "h", h, "g", slog.GroupValue(slog.Any("s", s)))
	}
	for name, trace := range map[string]string{
		"text": canary[:6], "hex": "63616e617279", "HEX": "63616E617279", "decimal": "99 97 110", "comma": "99, 97, 110",
		"bytes": "0x63, 0x61", "spaced": "63 61 6e", "octal": "143 141 156", "binary": "1100011 1100001",
	} {
		if strings.Contains(out.String(), trace) {
			t.Errorf("a secret was printed (%s)", name)
		}
	}
	if !strings.Contains(fmt.Sprint(s), "[secret]") {
		t.Errorf("printed as %v", s)
	}
}

func TestSecretIsNotEncoded(t *testing.T) {
	s := secret(canary)
	var out bytes.Buffer
	for name, err := range map[string]error{
		"json":       json.NewEncoder(&out).Encode(s),
		"json field": json.NewEncoder(&out).Encode(map[string]any{"s": s}),
		"gob":        gob.NewEncoder(&out).Encode(s),
		"gob field":  gob.NewEncoder(&out).Encode(struct{ S keystore.Secret }{s}),
		"xml":        xml.NewEncoder(&out).Encode(s),
		"xml field":  xml.NewEncoder(&out).Encode(struct{ S keystore.Secret }{s}),
	} {
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if strings.Contains(out.String(), canary) {
		t.Error("a secret was encoded")
	}
}

func TestSecretIsWiped(t *testing.T) {
	material := []byte(canary)
	s := keystore.NewSecret(material)
	copied := s
	if string(copied.Reveal()) != canary || s.Len() != len(canary) {
		t.Errorf("%q", copied.Reveal())
	}
	s.Wipe()
	if !bytes.Equal(material, make([]byte, len(canary))) || !bytes.Equal(copied.Reveal(), material) {
		t.Errorf("after Wipe: %q", copied.Reveal())
	}
	var none keystore.Secret
	none.Wipe()
	if none.Len() != 0 || none.Reveal() != nil {
		t.Error("the zero Secret holds something")
	}
}
