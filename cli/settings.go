package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"warder/api/client"
)

// settings are the context file: where the cluster is and who asks it. Paths in
// it are relative to the file.
type settings struct {
	Endpoints   []string `yaml:"endpoints"`
	TrustDomain string   `yaml:"trust_domain,omitempty"`
	CA          string   `yaml:"ca"`
	Certificate string   `yaml:"certificate,omitempty"`
	Key         string   `yaml:"key,omitempty"`
	Namespace   string   `yaml:"namespace,omitempty"`
}

const defaultNamespace = "default"

// contextPath is where the context file is, and whether it was named.
func (a *app) contextPath() (path string, named bool) {
	if a.flags.context != "" {
		return a.flags.context, true
	}
	if path := a.env.Getenv("WARDER_CONTEXT"); path != "" {
		return path, true
	}
	if dir := a.env.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "warder", "context.yaml"), false
	}
	return filepath.Join(a.env.Getenv("HOME"), ".config", "warder", "context.yaml"), false
}

// settings reads the context file; what flags say counts for more.
func (a *app) settings() (settings, error) {
	path, named := a.contextPath()
	s, err := readSettings(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		err = nil
	}
	if err != nil {
		return settings{}, localf("correct the file, or name another with --context", "context file %s: %w", path, err)
	}
	override(&s.CA, a.flags.ca)
	override(&s.Certificate, a.flags.certificate)
	override(&s.Key, a.flags.key)
	override(&s.Namespace, a.flags.namespace)
	override(&s.TrustDomain, a.flags.trustDomain)
	if len(a.flags.endpoints) > 0 {
		s.Endpoints = a.flags.endpoints
	}
	if s.Namespace == "" {
		s.Namespace = defaultNamespace
	}
	return s, nil
}

func override(value *string, flag string) {
	if flag != "" {
		*value = flag
	}
}

func readSettings(path string) (settings, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the user's own file
	if err != nil {
		return settings{}, err
	}
	var s settings
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return settings{}, err
	}
	for _, file := range []*string{&s.CA, &s.Certificate, &s.Key} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(path), *file)
		}
	}
	return s, nil
}

// writeSettings writes a context file that did not exist.
func writeSettings(path string, s settings) error {
	text, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	return writeNew(path, text, 0o600)
}

// dial makes the client of the context.
func (a *app) dial() (*client.Client, settings, error) {
	s, err := a.settings()
	if err != nil {
		return nil, s, err
	}
	config, err := a.config(s)
	if err != nil {
		return nil, s, err
	}
	c, err := client.Dial(config)
	if err != nil {
		return nil, s, localf("correct the context file or the flags", "%w", err)
	}
	return c, s, nil
}

// config is the client's configuration of a context.
func (a *app) config(s settings) (client.Config, error) {
	config := a.limits()
	if len(s.Endpoints) == 0 {
		path, _ := a.contextPath()
		return config, localf("run warder operator init, or give --context or --endpoint", "no endpoint known: there is none in %s", path)
	}
	if s.CA == "" {
		return config, local("no CA certificate known, so no node can be trusted", "give --ca, or put ca into the context file")
	}
	pool, err := readPool(s.CA)
	if err != nil {
		return config, err
	}
	config.Endpoints, config.CA, config.TrustDomain = s.Endpoints, pool, s.TrustDomain
	if s.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
		if err != nil {
			return config, localf("check certificate and key in the context file", "certificate %s: %w", s.Certificate, err)
		}
		config.Certificate = client.StaticCertificate(pair)
	}
	return config, a.withToken(&config)
}

// limits bound each call: about three seconds of attempts, which outlasts the
// choice of a new leader.
func (a *app) limits() client.Config {
	return client.Config{Timeout: a.flags.timeout, Retry: client.Retry{Attempts: 14}}
}

func (a *app) withToken(config *client.Config) error {
	source := a.flags.token
	if source == "" && a.env.Getenv("WARDER_TOKEN") != "" {
		source = "env:WARDER_TOKEN"
	}
	if source == "" {
		return nil
	}
	token, err := a.readText("--token", source)
	if err != nil {
		return err
	}
	config.Token = func(context.Context) (string, error) { return token, nil }
	return nil
}

func readPool(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the user's own file
	if err != nil {
		return nil, localf("name the file with the cluster's CA certificate: --ca", "CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, localf("it must hold a certificate in PEM", "CA certificate %s holds none", path)
	}
	return pool, nil
}

// dialSocket makes the client of the node on this machine.
func (a *app) dialSocket(path string) (*client.Client, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, localf("give --socket with an absolute path", "socket %s: %w", path, err)
	}
	config := a.limits()
	config.Endpoints = []string{"unix://" + absolute}
	config.Retry.Attempts = 3
	c, err := client.Dial(config)
	if err != nil {
		return nil, localf("give --socket with the node's own, <data directory>/warder.sock", "%w", err)
	}
	return c, nil
}
