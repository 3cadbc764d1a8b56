package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"warder/daemon/config"
)

const least = "node: n1\ntrust_domain: example.org\ndev: true\n"

func TestLeastFileGetsDefaults(t *testing.T) {
	c, err := config.Parse([]byte(least))
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/var/lib/warder" || c.Limits.BodyBytes != 1<<20 || c.Cluster.Advertise != "127.0.0.1:8444" ||
		c.Audit.Mode != "durable" || c.Staleness != 5*time.Second || c.HSM != (config.HSM{}) {
		t.Errorf("defaults: %+v", c)
	}
	again, err := c.Complete()
	if err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("complete is not idempotent: %+v, %v", again, err)
	}
}

// TestExampleHoldsEveryKeyAndDefault: the example names each key of the struct, no other, and the values that it
// calls defaults are the defaults.
func TestExampleHoldsEveryKeyAndDefault(t *testing.T) {
	shown, err := config.Parse([]byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	minimal, err := config.Parse([]byte("node: node-1\ntrust_domain: example.org\nhsm:\n  module: " + shown.HSM.Module +
		"\n  label: " + shown.HSM.Label + "\n  pin: " + shown.HSM.PIN + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shown, minimal) {
		t.Errorf("the example shows\n%+v\nthe defaults are\n%+v", shown, minimal)
	}
	for path := range keys(reflect.TypeFor[config.Config](), "") {
		parts := strings.Split(path, ".")
		line := "\n" + strings.Repeat("  ", len(parts)-1) + parts[len(parts)-1] + ":"
		if !strings.Contains(config.Example(), line) {
			t.Errorf("the example does not show %s", path)
		}
	}
}

func keys(t reflect.Type, prefix string) map[string]bool {
	all := map[string]bool{}
	for i := range t.NumField() {
		path := prefix + t.Field(i).Tag.Get("yaml")
		all[path] = true
		if t.Field(i).Type.Kind() == reflect.Struct {
			for k := range keys(t.Field(i).Type, path+".") {
				all[k] = true
			}
		}
	}
	return all
}

func TestProblemsSayWhereAndWhatToDo(t *testing.T) {
	hsm := "node: n1\ntrust_domain: example.org\nhsm:\n  module: /m.so\n  label: l\n"
	for name, c := range map[string]struct{ text, want string }{
		"unknown key, near":     {least + "data-dir: /x\n", `line 4: unknown key "data-dir": did you mean "data_dir"?`},
		"unknown key, nested":   {least + "log:\n  levle: info\n", `line 5: log: unknown key "levle": did you mean "level"?`},
		"unknown key, far":      {least + "log:\n  colour: red\n", `line 5: log: unknown key "colour": want one of level, format`},
		"key that is no key":    {least + "hunter2-4711: x\n", "line 4: unknown key: want one of node"},
		"twice":                 {least + "node: n2\n", "line 4: node: is here twice, first on line 1"},
		"number as duration":    {least + "staleness_bound: 5\n", "line 4: staleness_bound: want a duration with its unit"},
		"text as number":        {least + "limits:\n  streams: many\n", "line 5: limits.streams: want a whole number"},
		"number as text":        {"node: 17\n", "line 1: node: want text: put it in double quotes"},
		"yes as bool":           {"node: n1\ntrust_domain: e.org\ndev: yes\n", "line 3: dev: want true or false"},
		"mapping as list":       {least + "api:\n  listen: 127.0.0.1:1\n", "line 5: api.listen: want a list"},
		"list as mapping":       {least + "log: [info]\n", "line 4: log: want keys with values"},
		"list as text":          {"node: [n1]\n", "line 1: node: want a single value"},
		"alias":                 {"node: &a n1\ntrust_domain: *a\ndev: true\n", "line 1: node: anchors and aliases are not supported"},
		"tag":                   {"node: !!str n1\ntrust_domain: e.org\ndev: true\n", "line 1: node: tags (!...) are not supported"},
		"two documents":         {least + "---\nnode: n2\n", "more than one document"},
		"not YAML":              {"node: \"n1\n", "not valid YAML"},
		"tab":                   {"log:\n\tlevel: info\n", "line 2: not valid YAML"},
		"empty":                 {" \n", "it is empty"},
		"comment only":          {"# nothing\n", "it holds no keys"},
		"node name":             {"node: N_1\ntrust_domain: e.org\ndev: true\n", "line 1: node: give 1 to 63"},
		"relative data dir":     {least + "data_dir: var\n", "line 4: data_dir: give an absolute path"},
		"climbing data dir":     {least + "data_dir: /var/../etc\n", "line 4: data_dir: give an absolute path"},
		"address without port":  {least + "api:\n  listen: [localhost]\n", "line 5: api.listen[0]: give host:port"},
		"advertise unspecified": {least + "cluster:\n  listen: 0.0.0.0:1\n", "cluster.advertise: give the host:port"},
		"no token":              {"node: n1\ntrust_domain: e.org\n", "hsm: configure module, label and pin"},
		"both tokens":           {hsm + "  pin: prompt\ndev: true\n", "line 7: dev: a software token and an HSM are both configured"},
		"HSM without PIN":       {hsm, "hsm.pin: say where the PIN comes from"},
		"old TLS":               {least + "tls:\n  min_version: \"1.1\"\n", "line 5: tls.min_version: give 1.2 or 1.3"},
		"too little memory":     {least + "limits:\n  memory: 1000000\n", "line 5: limits.memory: give a number from 2162688 to 68719476736"},
		"too little for one":    {least + "limits:\n  memory_per_address: 1000000\n", "line 5: limits.memory_per_address: give a number from 2162688 to 536870912"},
		"limit too large":       {least + "limits:\n  body_bytes: 1000000000\n", "line 5: limits.body_bytes: give a number from 1024 to 67108864"},
		"negative duration":     {least + "clock_skew_bound: -5s\n", "line 4: clock_skew_bound: give a duration from 1s to 30s"},
		"audit mode":            {least + "audit:\n  mode: off\n", "audit.mode: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse([]byte(c.text))
			if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := config.Parse([]byte("node: N\ntrust_domain: E\ndev: true\nlog:\n  level: loud\n"))
	for _, want := range []string{"line 1: node", "line 2: trust_domain", "line 5: log.level"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

// TestPINIsNeverRepeated puts a PIN wherever a person might, and reads the messages.
func TestPINIsNeverRepeated(t *testing.T) {
	const canary = "73915842"
	hsm := "node: n1\ntrust_domain: example.org\nhsm:\n  module: /m.so\n  label: l\n"
	for _, line := range []string{
		"  pin: " + canary, "  pin: \"" + canary + "\"", "  pin: file:" + canary, "  pin: env:" + canary, "  pin: fd:" + canary,
		"  pin: [" + canary + "]", "  pin: {" + canary + ": x}", "  " + canary + ": pin", "  sessions: x" + canary, "  timeout: " + canary + "x",
		"  pin: \"" + canary, "  pin: *p" + canary, "  pin: !p" + canary + " x", "  pin: prompt\nnode: n" + canary, "  pin: 'file:relative/" + canary + "'",
		"  pin:" + canary, "  pin: |\n   " + canary, "  module: " + canary, "  " + canary,
	} {
		_, err := config.Parse([]byte(hsm + line + "\n"))
		if !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%q is accepted: %v", line, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%q is repeated: %v", line, err)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "warder.yaml")
	if _, err := config.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := os.WriteFile(path, []byte(least), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := config.Load(path); err != nil || c.Node != "n1" {
		t.Errorf("load: %+v, %v", c, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("writable by others: %v", err)
	}
	if _, err := config.Parse(make([]byte, config.MaxFile+1)); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("too long: %v", err)
	}
}

// FuzzParse: nothing panics, and what is accepted is complete.
func FuzzParse(f *testing.F) {
	f.Add([]byte(least))
	f.Add([]byte(config.Example()))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse(text)
		if err != nil {
			if !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("error is not ErrInvalid: %v", err)
			}
			return
		}
		if again, err := c.Complete(); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("accepted, but not complete: %v", err)
		}
	})
}
