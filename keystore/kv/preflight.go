package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

const discardUnit = 1 << 20 // Badger's DISCARD file is this long, or a doubling of it

// preflight checks the files of a generation before Badger sees them. Badger
// opens tables on goroutines of its own, where a panic ends the process; it
// exits the process on a table that is cut short; it goes on without a table
// whose checksum is wrong.
func preflight(dir string, opt badger.Options) error {
	name := filepath.Join(dir, badger.ManifestFilename)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return preflightEmpty(dir, name)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, 0, opt)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	for id := range manifest.Tables {
		if err := checkTable(table.NewFilename(id, dir)); err != nil {
			return err
		}
	}
	return checkDiscard(filepath.Join(dir, "DISCARD"))
}

// preflightEmpty allows a generation without manifest only where Badger has
// never been: it would otherwise remove the tables that a manifest does not
// name.
func preflightEmpty(dir, manifest string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".sst" || filepath.Ext(e.Name()) == ".vlog" {
			return fmt.Errorf("%w: %s is missing", ErrDamaged, manifest)
		}
	}
	return nil
}

// checkTable verifies one table: its frame by hand, where Badger would exit,
// then every block by Badger's own checksums.
func checkTable(name string) error {
	if err := checkTableFrame(name); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	err := guarded(func() error {
		m, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		t, err := table.OpenTable(m, table.Options{ChkMode: options.OnTableRead, Compression: options.None})
		if err != nil {
			return err
		}
		return t.Close(-1)
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	return nil
}

// checkTableFrame walks a table's footer from the end: the length of the
// checksum, the checksum, the length of the index, the index.
func checkTableFrame(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	for _, part := range []string{"checksum", "index"} {
		var n [4]byte
		if end < 4 {
			return fmt.Errorf("cut short before its %s", part)
		}
		if _, err := f.ReadAt(n[:], end-4); err != nil {
			return err
		}
		end -= 4 + int64(binary.BigEndian.Uint32(n[:]))
		if end < 0 {
			return fmt.Errorf("the length of its %s is out of bounds", part)
		}
	}
	return nil
}

// checkDiscard removes a DISCARD file of a length that Badger cannot have
// given it: it holds statistics only, and Badger makes a new one.
func checkDiscard(name string) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if n := info.Size(); n >= discardUnit && n&(n-1) == 0 {
		return nil
	}
	return os.Remove(name)
}
