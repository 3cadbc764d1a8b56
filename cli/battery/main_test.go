//go:build battery

package battery_test

import (
	"os"
	"testing"

	"warder/cli/battery/town"
)

func TestMain(m *testing.M) { os.Exit(town.Main(m)) }
