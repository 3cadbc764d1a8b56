package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// maxPIN bounds a PIN in bytes. Vendors' forms ("user:password") are well below it.
const maxPIN = 1024

// ErrPINSource: a PIN's source is badly written, cannot be read, or is open to others.
var ErrPINSource = errors.New("hsm PIN source unusable")

// PINSource reads a PIN when it is needed. The caller owns the bytes and wipes them. Some sources (fd, prompt) give
// their PIN once only.
type PINSource func(ctx context.Context) ([]byte, error)

// ParsePIN reads a PIN's source, never a PIN itself:
//
//	file:/path       a regular file of mode 0600 or stricter; one newline at its end is trimmed
//	env:NAME         an environment variable
//	credential:NAME  a file in systemd's $CREDENTIALS_DIRECTORY
//	fd:N             an inherited file descriptor, 3 or above; read to its end once
//	prompt           asked for on the terminal
//
// Nothing is read before the source is called. The error is ErrPINSource, and repeats no more than the form's name, in
// case that somebody wrote the PIN itself.
func ParsePIN(spec string) (PINSource, error) {
	form, arg, _ := strings.Cut(spec, ":")
	switch {
	case form == "file" && filepath.IsAbs(arg):
		return func(context.Context) ([]byte, error) { return pinFile(arg, true) }, nil
	case form == "env" && arg != "":
		return func(context.Context) ([]byte, error) { return pinEnv(arg) }, nil
	case form == "credential" && arg != "" && arg != "." && arg != ".." && !strings.ContainsRune(arg, '/'):
		return func(context.Context) ([]byte, error) { return pinCredential(arg) }, nil
	case form == "fd":
		if n, err := strconv.ParseUint(arg, 10, 16); err == nil && n >= 3 {
			return func(context.Context) ([]byte, error) { return pinDescriptor(uintptr(n)) }, nil
		}
	case spec == "prompt":
		return pinPrompt, nil
	}
	return nil, fmt.Errorf("%w: write file:/absolute/path, env:NAME, credential:NAME, fd:N (3 or above) or prompt", ErrPINSource)
}

// pinFile reads a file; private asks that nobody but its owner may.
func pinFile(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPINSource, err)
	}
	defer f.Close()
	// The open file is asked, not the path: what is checked is what is read.
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrPINSource, err)
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrPINSource, path)
	case private && st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: %s has mode %04o and others could read it: chmod 0600 %s", ErrPINSource, path, st.Mode().Perm(), path)
	}
	return readPIN(f, path)
}

func pinEnv(name string) ([]byte, error) {
	v, ok := os.LookupEnv(name)
	if !ok {
		return nil, fmt.Errorf("%w: environment variable %s is not set", ErrPINSource, name)
	}
	return checkPIN([]byte(v), "environment variable "+name)
}

// pinCredential leaves the mode to systemd, which keeps the directory to the service's own user.
func pinCredential(name string) ([]byte, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%w: no $CREDENTIALS_DIRECTORY: give the unit LoadCredential=%s:/path or run it under systemd", ErrPINSource, name)
	}
	return pinFile(filepath.Join(dir, name), false)
}

func pinDescriptor(fd uintptr) ([]byte, error) {
	name := fmt.Sprintf("file descriptor %d", fd)
	f := os.NewFile(fd, name)
	if f == nil {
		return nil, fmt.Errorf("%w: %s is not open", ErrPINSource, name)
	}
	defer f.Close()
	return readPIN(f, name)
}

// pinPrompt asks on the controlling terminal, so that redirected input is never taken for a PIN.
func pinPrompt(ctx context.Context) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: no terminal to ask on: use file:, env:, credential: or fd: instead", ErrPINSource)
	}
	defer tty.Close()
	if _, err := io.WriteString(tty, "HSM PIN: "); err != nil {
		return nil, fmt.Errorf("%w: terminal: %w", ErrPINSource, err)
	}
	pin, err := term.ReadPassword(int(tty.Fd()))
	_, _ = io.WriteString(tty, "\n") // the answer was read; a missing line break harms nobody
	if err = errors.Join(err, ctx.Err()); err != nil {
		clear(pin)
		return nil, fmt.Errorf("%w: terminal: %w", ErrPINSource, err)
	}
	return checkPIN(pin, "the terminal")
}

func readPIN(r io.Reader, name string) ([]byte, error) {
	// One buffer of full size: growing would leave copies of the PIN behind.
	buf := make([]byte, maxPIN+2)
	n, err := io.ReadFull(r, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		clear(buf)
		return nil, fmt.Errorf("%w: reading %s: %w", ErrPINSource, name, err)
	}
	pin := bytes.TrimSuffix(bytes.TrimSuffix(buf[:n], []byte("\n")), []byte("\r"))
	return checkPIN(pin, name)
}

func checkPIN(pin []byte, name string) ([]byte, error) {
	switch {
	case len(pin) == 0:
		return nil, fmt.Errorf("%w: %s is empty", ErrPINSource, name)
	case len(pin) > maxPIN:
		clear(pin)
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrPINSource, name, maxPIN)
	case bytes.ContainsAny(pin, "\x00\r\n"):
		clear(pin)
		return nil, fmt.Errorf("%w: %s holds a line break or a NUL: a PIN is one line", ErrPINSource, name)
	}
	return pin, nil
}
