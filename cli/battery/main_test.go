//go:build battery

package battery_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"warder/cli/battery/town"
)

// TestMain builds the program under test once, unless town.BinaryEnv names one.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(town.BinaryEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "warder-battery-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "warder")
	if out, err := exec.Command("go", "build", "-o", path, "warder/cli/warder").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build warder: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(town.BinaryEnv, path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
