//go:build battery

package speed_test

import (
	"fmt"
	"os"
	"testing"

	"warder/cli/battery/town"
)

// TestMain is floor T's server where it is started as that.
func TestMain(m *testing.M) {
	if os.Getenv(plainVariable) == "" {
		os.Exit(town.Main(m))
	}
	if err := servePlain(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// times is how much is done in the short form, and how much in the long one.
func times(short, long int) int {
	if testing.Short() {
		return short
	}
	return long
}
