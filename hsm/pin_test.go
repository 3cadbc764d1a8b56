package hsm_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"warder/hsm"
)

func write(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, spec string) (string, error) {
	t.Helper()
	source, err := hsm.ParsePIN(spec)
	if err != nil {
		return "", err
	}
	pin, err := source(t.Context())
	return string(pin), err
}

func TestPINFromFile(t *testing.T) {
	cases := []struct {
		name, content string
		mode          os.FileMode
		want, says    string
	}{
		{"plain", "1234", 0o600, "1234", ""},
		{"newline", "user:pass word\n", 0o400, "user:pass word", ""},
		{"windows newline", "1234\r\n", 0o600, "1234", ""},
		{"spaces are the PIN's", " 12 \n", 0o600, " 12 ", ""},
		{"two lines", "1234\n5678\n", 0o600, "", "line break"},
		{"empty", "\n", 0o600, "", "empty"},
		{"readable by the group", "1234", 0o640, "", "chmod 0600"},
		{"readable by all", "1234", 0o604, "", "chmod 0600"},
		{"longest", strings.Repeat("9", 1024) + "\n", 0o600, strings.Repeat("9", 1024), ""},
		{"too long", strings.Repeat("9", 1025), 0o600, "", "longer"},
		{"far too long", strings.Repeat("9", 1<<20), 0o600, "", "longer"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := read(t, "file:"+write(t, c.content, c.mode))
			if c.says == "" {
				if err != nil || got != c.want {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			if !errors.Is(err, hsm.ErrPINSource) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "1234") {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := read(t, "file:"+t.TempDir()); !errors.Is(err, hsm.ErrPINSource) {
		t.Errorf("a folder gave %v", err)
	}
}

func TestPINFromElsewhere(t *testing.T) {
	t.Setenv("WARDER_TEST_PIN", "4321")
	if got, err := read(t, "env:WARDER_TEST_PIN"); err != nil || got != "4321" {
		t.Errorf("environment: %q, %v", got, err)
	}
	if _, err := read(t, "env:WARDER_TEST_NONE"); !errors.Is(err, hsm.ErrPINSource) || !strings.Contains(err.Error(), "WARDER_TEST_NONE") {
		t.Errorf("unset variable: %v", err)
	}
	path := write(t, "2468\n", 0o440)
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(path))
	if got, err := read(t, "credential:pin"); err != nil || got != "2468" {
		t.Errorf("credential: %q, %v", got, err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := read(t, "credential:pin"); !errors.Is(err, hsm.ErrPINSource) || !strings.Contains(err.Error(), "LoadCredential") {
		t.Errorf("no credentials: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("1357\n"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	defer r.Close()
	fd, err := syscall.Dup(int(r.Fd())) // the source closes what it read
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, fmt.Sprintf("fd:%d", fd)); err != nil || got != "1357" {
		t.Errorf("descriptor: %q, %v", got, err)
	}
}

func TestPINIsNeverInTheSpec(t *testing.T) {
	for _, spec := range []string{
		"", "123456", "pin:123456", "file:123456", "file:", "env:", "credential:", "credential:../123456", "credential:..",
		"fd:2", "fd:-1", "fd:123456", "prompt:123456", "FILE:/123456",
	} {
		if _, err := hsm.ParsePIN(spec); !errors.Is(err, hsm.ErrPINSource) || strings.Contains(err.Error(), "123456") {
			t.Errorf("%q gave %v", spec, err)
		}
	}
}
