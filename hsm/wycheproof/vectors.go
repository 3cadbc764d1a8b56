package wycheproof

import (
	"embed"
	"encoding/hex"
	"encoding/json"
	"testing"
)

//go:embed testdata/*.json
var files embed.FS

// Hex is bytes that a file has in hexadecimal.
type Hex []byte

// UnmarshalText reads hexadecimal of any length, nothing too.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// Group is tests of one key or one set of parameters. A field that a kind of file does not have is zero.
type Group struct {
	Comment string          `json:"comment"`
	KeySize int             `json:"keySize"` // in bits, and so are the two below
	IVSize  int             `json:"ivSize"`
	TagSize int             `json:"tagSize"`
	SHA     string          `json:"sha"`
	Public  Hex             `json:"publicKeyDer"`    // SubjectPublicKeyInfo
	PKCS8   Hex             `json:"privateKeyPkcs8"` // PrivateKeyInfo
	JWK     json.RawMessage `json:"public"`          // of a JSON web signature's verifier, unless that is symmetric
	Tests   []Test          `json:"tests"`
}

// Test is one vector. A field that a kind of file does not have is zero.
type Test struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  string   `json:"result"` // "valid", "invalid" or "acceptable"

	Key     Hex    `json:"key"`
	IV      Hex    `json:"iv"`
	AAD     Hex    `json:"aad"`
	Message Hex    `json:"msg"`
	Cipher  Hex    `json:"ct"`
	Tag     Hex    `json:"tag"`
	Sig     Hex    `json:"sig"`
	Label   Hex    `json:"label"`
	IKM     Hex    `json:"ikm"`
	Salt    Hex    `json:"salt"`
	Info    Hex    `json:"info"`
	OKM     Hex    `json:"okm"`
	Size    int    `json:"size"` // of OKM, in bytes
	JWS     string `json:"jws"`
}

// Groups reads a file by its name without ".json", and fails where it has not the number of tests that it claims, or none.
func Groups(t testing.TB, name string) []Group {
	t.Helper()
	text, err := files.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Number int     `json:"numberOfTests"`
		Groups []Group `json:"testGroups"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	count := 0
	for _, group := range file.Groups {
		count += len(group.Tests)
	}
	if count == 0 || count != file.Number {
		t.Fatalf("%s has %d tests, and says that it has %d", name, count, file.Number)
	}
	return file.Groups
}
