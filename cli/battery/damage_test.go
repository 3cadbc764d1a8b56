//go:build battery

package battery_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// harm is one thing that a disk does to a file.
type harm struct {
	name string
	do   func(path string, size int64) error
}

func harms() []harm {
	flip := func(path string, at int64) error {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		one := make([]byte, 1)
		if _, err := file.ReadAt(one, at); err != nil {
			return err
		}
		one[0] ^= 0x10
		_, err = file.WriteAt(one, at)
		return err
	}
	return []harm{
		{"a bit flipped at the front", func(path string, size int64) error { return flip(path, size/16) }},
		{"a bit flipped in the middle", func(path string, size int64) error { return flip(path, size/2) }},
		{"its tail cut off", func(path string, size int64) error { return os.Truncate(path, size*3/4) }},
	}
}

// damageable are the files of a node's data, but the token that stands for its HSM.
func damageable(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err == nil && entry.Type().IsRegular() && info.Size() > 0 && !strings.HasPrefix(name, "software-token") && filepath.Base(name) != "LOCK" {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDamageIsNamedNeverServed harms each file of one node in turn while the node is down. The node then serves all
// that was acknowledged, or names the damage and does not serve; the others go on throughout.
func TestDamageIsNamedNeverServed(t *testing.T) {
	at := town.New(t, town.Plan{})
	crew := work.Start(t, at)
	crew.Await(t, 50)
	crew.Halt()
	victim := at.Nodes[2]
	at.Ready(t, victim)
	victim.Kill()
	outcomes := map[string]int{}
	for i, file := range damageable(t, victim.Data) {
		for j, harm := range harms() {
			if testing.Short() && (i+j)%3 != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s of %s", harm.name, file), func(t *testing.T) {
				outcomes[suffer(t, at, victim, file, harm, crew)]++
			})
		}
	}
	t.Logf("outcomes: %v", outcomes)
	if outcomes["rebuilt"] == 0 || outcomes["refused"] == 0 {
		t.Errorf("no harm was found at all: %v", outcomes)
	}
}

// suffer gives what became of the node: "unharmed", "rebuilt" or "refused".
func suffer(t testing.TB, at *town.Town, victim *town.Node, file string, harm harm, crew *work.Crew) string {
	t.Helper()
	before := filepath.Join(victim.Dir, "before")
	replaceDir(t, victim.Data, before)
	path := filepath.Join(victim.Data, file)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) { // the node has rolled or merged it away since
		return "gone"
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := harm.do(path, info.Size()); err != nil {
		t.Fatal(err)
	}
	victim.Launch(t)
	defer victim.Kill()
	one := at.Dial(t, victim)
	outcome := ""
	town.Eventually(t, "the node serves or refuses", 60*time.Second, func() error {
		if ended := victim.Ended(); ended != nil {
			outcome = "refused"
			if !strings.Contains(ended.Error(), "damaged") {
				return town.Final(fmt.Errorf("it does not name the damage: %w", ended))
			}
			return nil
		}
		outcome = "unharmed"
		return town.Serves(t, one)
	})
	if outcome == "refused" { // what an operator would do: put the file's copy back
		replaceDir(t, before, victim.Data)
		victim.Start(t)
		at.Ready(t, victim)
		return outcome
	}
	crew.Check(t, victim)
	if strings.Contains(victim.Log(), "is set aside and rebuilt") {
		return "rebuilt"
	}
	return outcome
}

// replaceDir makes one folder a copy of another, with its modes and holes.
func replaceDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}
