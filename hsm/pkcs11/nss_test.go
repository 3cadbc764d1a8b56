package pkcs11_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/hsm"
	"warder/hsm/hsmtest"
	"warder/hsm/pkcs11"
)

// nssToken makes a fresh NSS key database.
func nssToken(t testing.TB) pkcs11.Config {
	t.Helper()
	dir := t.TempDir()
	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte(userPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", program(t, "libnss3-tools", "certutil"), "-N", "-d", "sql:"+dir, "-f", pin)
	return pkcs11.Config{
		Module: module(t, "libnss3", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so"),
		Label:  "NSS Certificate DB", PIN: pinOf(userPIN), Timeout: 20 * time.Second, Executable: []string{os.Args[0], childVerb},
		Init: fmt.Sprintf("configDir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=", dir),
	}
}

func TestNSSContract(t *testing.T) {
	hsmtest.Run(t, func(t *testing.T) hsm.Token {
		token := open(t, nssToken(t))
		// Its CKM_AES_KEY_WRAP_PAD is not RFC 5649, and an operator must know.
		if i := token.Info(); !i.CustodyCapable || !strings.Contains(i.Detail, "of this make") || i.OAEP != hsm.SHA256 {
			t.Errorf("info: %+v", i)
		}
		return token
	})
}
