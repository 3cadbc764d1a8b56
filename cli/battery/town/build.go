package town

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Edit is one change to a source file for one build: Old must stand there exactly once. A path that is not absolute is the
// project's.
type Edit struct{ File, Old, New string }

// Build builds the warder binary with edits to its sources, into the test's folder. The tree itself is not touched: the
// compiler is told of the changed files (go help build, -overlay).
func Build(t testing.TB, edits ...Edit) string {
	t.Helper()
	dir, root := t.TempDir(), Root(t)
	replaced := map[string]string{}
	for _, edit := range edits {
		path := edit.File
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, path)
		}
		from := path
		if former, again := replaced[path]; again {
			from = former
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if count := strings.Count(string(text), edit.Old); count != 1 {
			t.Fatalf("%s has %q %d times; want once: the edit must follow the code", edit.File, edit.Old, count)
		}
		replaced[path] = filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "_"))
		changed := strings.Replace(string(text), edit.Old, edit.New, 1)
		if err := os.WriteFile(replaced[path], []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	file, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "warder")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", file, "-o", binary, "./cli/warder")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build warder: %v\n%s", err, out)
	}
	return binary
}

// Root is the project's folder.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("find the module's folder: %v", err)
	}
	return strings.TrimSpace(string(out))
}
