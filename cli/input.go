package cli

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxInput bounds what is read from a file or from stdin, in bytes.
const maxInput = 1 << 20

// read reads an input: @file, - for stdin, or env:NAME. Nothing else, so that no
// secret stands among the arguments, where every user of the machine sees it.
func (a *app) read(what, source string) ([]byte, error) {
	switch {
	case source == "-":
		return a.readAll(what, a.env.Stdin)
	case strings.HasPrefix(source, "@"):
		return a.readFile(what, source[1:])
	case strings.HasPrefix(source, "env:"):
		value := a.env.Getenv(strings.TrimPrefix(source, "env:"))
		if value == "" {
			return nil, localf("set it", "%s: the environment has no %s", what, strings.TrimPrefix(source, "env:"))
		}
		return []byte(value), nil
	}
	return nil, local(what+" is not to be given as an argument, where others can see it",
		"write it to a file and give @file, or give - and pipe it in, or env:NAME")
}

// readText is read without the line's end.
func (a *app) readText(what, source string) (string, error) {
	data, err := a.read(what, source)
	return string(trimLine(data)), err
}

// trimLine drops one line end, which editors and echo add.
func trimLine(data []byte) []byte {
	data = bytes.TrimSuffix(data, []byte("\n"))
	return bytes.TrimSuffix(data, []byte("\r"))
}

// readFile reads a file, or stdin for -.
func (a *app) readFile(what, path string) ([]byte, error) {
	if path == "-" {
		return a.readAll(what, a.env.Stdin)
	}
	file, err := os.Open(path) //nolint:gosec // the user's own file
	if err != nil {
		return nil, localf("check the path", "%s: %w", what, err)
	}
	defer func() { _ = file.Close() }()
	return a.readAll(what, file)
}

func (a *app) readAll(what string, from io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	if err != nil {
		return nil, localf("check the input", "%s: %w", what, err)
	}
	if len(data) > maxInput {
		return nil, localf("give less", "%s is larger than %d bytes", what, maxInput)
	}
	return data, nil
}

// confirm asks before what cannot be undone. Without a terminal to ask at, only
// --yes will do.
func (a *app) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	terminal, ok := a.env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return local("not done: this would "+what, "add --yes when that is meant")
	}
	a.tell("This will %s. Type yes to go on:", what)
	line, err := bufio.NewReader(terminal).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return local("not done: the answer was not yes", "nothing was changed")
	}
	return nil
}
