//go:build battery

package speed_test

import (
	"os"
	"testing"
)

// reportVariable names the file that the tables are added to; without it they are in the test's log only.
const reportVariable = "WARDER_SPEED_REPORT"

func appendReport(t testing.TB, text string) {
	t.Helper()
	path := os.Getenv(reportVariable)
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	expect(t, err)
	_, err = file.WriteString(text)
	expect(t, err)
	expect(t, file.Close())
}
