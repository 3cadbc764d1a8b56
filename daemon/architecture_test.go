package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "warder"

// TestImportTable holds the code to the table in docs/architecture.md: an import that the table does not
// allow, a package that it does not list and a row that no longer matches the code each fail.
func TestImportTable(t *testing.T) {
	root := moduleRoot(t)
	allowed := importTable(t, filepath.Join(root, "docs", "architecture.md"))
	seen := map[string]bool{}
	for name, imports := range packages(t, root) {
		row, listed := allowed[name]
		if !listed {
			t.Errorf("package %s is not in the import table of docs/architecture.md", name)
			continue
		}
		seen[name] = true
		for _, imported := range imports {
			if !slices.Contains(row, imported) {
				t.Errorf("package %s imports %s: the table does not allow it", name, imported)
			}
		}
		for _, entry := range row {
			if !slices.Contains(imports, entry) {
				t.Errorf("package %s no longer imports %s: its row is stale", name, entry)
			}
		}
	}
	for name := range allowed {
		if !seen[name] {
			t.Errorf("the table lists %s, which is no package", name)
		}
	}
}

// TestApplyIsDeterministicByConstruction proves that the state machine cannot reach a clock, randomness, an HSM, the
// keyring or a domain package: none of its files imports one, and they compile without the files of the other half of
// their package, the one that has the keys and, in run.go, the clock by which Apply's disk is watched. A new file belongs to the state machine until it is listed here.
func TestApplyIsDeterministicByConstruction(t *testing.T) {
	dir := filepath.Join(moduleRoot(t), "keystore", "kv")
	keyed := []string{"db.go", "propose.go", "reseal.go", "run.go", "scan.go", "seal.go", "tx.go", "txlog.go", "watch.go"}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(file string) bool {
		return strings.HasSuffix(file, "_test.go") || slices.Contains(keyed, filepath.Base(file))
	})
	for _, needed := range []string{"apply", "batch", "change", "decode", "generation", "result", "row", "state", "target"} {
		if !slices.Contains(files, filepath.Join(dir, needed+".go")) {
			t.Errorf("%s.go is no file of the state machine", needed)
		}
	}
	forbidden := regexp.MustCompile(`^(time|math/rand.*|crypto/rand|warder/.*)$`)
	for _, imported := range fileImports(t, dir, files...) {
		if forbidden.MatchString(imported) {
			t.Errorf("the state machine imports %s: Apply must be a pure function of the log and the state", imported)
		}
	}
	build := exec.CommandContext(t.Context(), "go", append([]string{"build"}, files...)...)
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("the state machine needs the half that has the keys: %v: %s", err, out)
	}
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// importTable reads rows of the form "| `package` | job | `import`, `import` |".
func importTable(t *testing.T, path string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([a-z0-9/]+)`")
	table := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		name := code.FindStringSubmatch(cells[1])
		if name == nil {
			continue
		}
		imports := []string{}
		for _, match := range code.FindAllStringSubmatch(cells[3], -1) {
			imports = append(imports, match[1])
		}
		table[name[1]] = imports
	}
	if len(table) == 0 {
		t.Fatalf("%s holds no import table", path)
	}
	return table
}

// packages gives the project's own imports of each package, test files left out.
func packages(t *testing.T, root string) map[string][]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	found := map[string][]string{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var entry struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&entry); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		own := map[string]bool{}
		for _, imported := range entry.Imports {
			if short, ok := strings.CutPrefix(imported, module+"/"); ok {
				own[short] = true
			}
		}
		found[strings.TrimPrefix(entry.ImportPath, module+"/")] = slices.Sorted(maps.Keys(own))
	}
}

func fileImports(t *testing.T, dir string, files ...string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", append([]string{"list", "-f", `{{join .Imports "\n"}}`}, files...)...)
	list.Dir = dir
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v", dir, err)
	}
	return strings.Fields(string(out))
}
