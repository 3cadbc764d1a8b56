package seal

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// FuzzJoinToken: a token has one spelling, and everything else is refused alike.
func FuzzJoinToken(f *testing.F) {
	f.Add(joinPrefix + "." + strings.Repeat("A", 26) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 32)))
	f.Fuzz(func(t *testing.T, text string) {
		id, secret, err := parseJoinToken(text)
		if err != nil {
			if !errors.Is(err, ErrJoinRefused) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if again := joinPrefix + "." + id + "." + base64.RawURLEncoding.EncodeToString(secret); again != text {
			t.Errorf("%q is taken for %q", text, again)
		}
	})
}
