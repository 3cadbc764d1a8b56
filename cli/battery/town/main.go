package town

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Main builds the program under test once, unless BinaryEnv names one, and runs the tests. It gives their exit code.
func Main(m *testing.M) int {
	if os.Getenv(BinaryEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "warder-battery-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // a folder for temporary files
	path := filepath.Join(dir, "warder")
	if out, err := exec.Command("go", "build", "-o", path, "warder/cli/warder").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build warder: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(BinaryEnv, path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
