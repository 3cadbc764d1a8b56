package softtoken

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"warder/hsm"
)

// store keeps named keys. get gives a copy that the caller wipes; a missing name is hsm.ErrKeyNotFound.
type store interface {
	get(name string) ([]byte, error)
	put(name string, value []byte) error
	remove(name string) error
	check() error
}

func openStore(dir string) (store, error) {
	if dir == "" {
		return &memory{keys: map[string][]byte{}}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: software token: %w", hsm.ErrTokenMissing, err)
	}
	f := folder(dir)
	return f, f.check()
}

// memory is a store that ends with the process.
type memory struct {
	mu   sync.Mutex
	keys map[string][]byte
}

func (m *memory) get(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.keys[name]
	if !ok {
		return nil, missing(name)
	}
	return bytes.Clone(v), nil
}

func (m *memory) put(name string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[name] = bytes.Clone(value)
	return nil
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.keys[name]
	if !ok {
		return missing(name)
	}
	clear(v)
	delete(m.keys, name)
	return nil
}

func (m *memory) check() error { return nil }

// folder is a store of one file for each key.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name+".key") }

func (f folder) get(name string) ([]byte, error) {
	v, err := os.ReadFile(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: software token: %w", hsm.ErrUnavailable, err)
	}
	return v, nil
}

// put writes aside and renames, so that a key file is whole or not there.
func (f folder) put(name string, value []byte) error {
	tmp, err := os.CreateTemp(string(f), "new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("%w: software token: %w", hsm.ErrUnavailable, err)
	}
	_, err = tmp.Write(value)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), f.path(name))
	}
	if err != nil {
		return fmt.Errorf("%w: software token: %w", hsm.ErrUnavailable, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func (f folder) remove(name string) error {
	err := os.Remove(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return missing(name)
	}
	if err != nil {
		return fmt.Errorf("%w: software token: %w", hsm.ErrUnavailable, err)
	}
	return nil
}

func (f folder) check() error {
	st, err := os.Stat(string(f))
	switch {
	case err != nil:
		return fmt.Errorf("%w: software token: %w", hsm.ErrUnavailable, err)
	case !st.IsDir() || st.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: software token folder %s must be a folder of mode 0700: chmod 0700 %s", hsm.ErrUnavailable, f, f)
	}
	return nil
}

func missing(name string) error {
	return fmt.Errorf("%w: the software token has no %s", hsm.ErrKeyNotFound, name)
}
