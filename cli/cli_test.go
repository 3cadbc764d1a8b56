package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"warder/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"warder": func() {
		os.Exit(cli.Run(context.Background(), cli.Env{
			Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: "v9",
			Server:   func(_ context.Context, args []string) int { fmt.Println("server", strings.Join(args, " ")); return 3 },
			HSMChild: func(context.Context) int { fmt.Println("child"); return 4 },
		}))
	}})
}

// TestScripts runs testdata/*.txtar, each against a node of its own. The scripts
// have the node's files in $WORK, its address in $NODE and its socket in $SOCKET.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			t := env.T().(testing.TB)
			f := newFake(t)
			files, err := f.operatorContext()
			if err != nil {
				return err
			}
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			dir := t.TempDir() // a socket's path is short (sun_path: 108 bytes)
			socket := filepath.Join(dir, "s")
			f.serveSocket(t, socket)
			env.Setenv("NODE", f.server.URL)
			env.Setenv("SOCKET", socket)
			env.Setenv("METRICS", serveMetrics(t))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", "")
			env.Values["fake"] = f
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// tamper changes an entry of the node's audit log.
			"tamper": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value("fake").(*fake).audit.tamper(t)
			},
			// stop takes the node away.
			"stop": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value("fake").(*fake).server.Close()
			},
			// code runs warder and compares its exit code: code 2 warder …
			"code": exitCode,
		},
	})
}

func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}
