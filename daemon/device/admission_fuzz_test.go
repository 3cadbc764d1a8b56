package device

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// FuzzEnrolmentToken: a token has one spelling, and everything else is refused alike.
func FuzzEnrolmentToken(f *testing.F) {
	f.Add(enrolmentPrefix + "." + strings.Repeat("A", 26) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 32)))
	f.Fuzz(func(t *testing.T, text string) {
		id, secret, err := parseEnrolmentToken(text)
		if err != nil {
			if !errors.Is(err, ErrEnrolmentRefused) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if again := enrolmentPrefix + "." + id + "." + base64.RawURLEncoding.EncodeToString(secret); again != text {
			t.Errorf("%q is taken for %q", text, again)
		}
	})
}
