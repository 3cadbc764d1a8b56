package town

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Gauge reads a number without labels from the node's metrics page.
func (n *Node) Gauge(t testing.TB, name string) float64 {
	t.Helper()
	response, err := http.Get("http://" + n.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if text, found := strings.CutPrefix(line, name+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("the node's metrics have no %s", name)
	return 0
}

// Resident is the node's memory (VmRSS), in bytes.
func (n *Node) Resident(t testing.TB) int64 { return n.memory(t, "VmRSS:") }

// Anonymous is the part of it that is no file's (RssAnon): pages of the store's files, which the kernel takes back when it
// needs them, are the rest.
func (n *Node) Anonymous(t testing.TB) int64 { return n.memory(t, "RssAnon:") }

func (n *Node) memory(t testing.TB, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), name)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("no %s in %s", name, status)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
