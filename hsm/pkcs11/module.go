package pkcs11

import (
	"debug/elf"
	"fmt"
	"os"
	"slices"

	"warder/hsm"
)

// checkModule finds out why a library cannot be loaded, before loading it: the loader itself gives no reason.
func checkModule(path string) error {
	refuse := func(what string) error { return fmt.Errorf("%w: module %s %s", hsm.ErrModuleMissing, path, what) }
	st, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return refuse("is not there: install the HSM's client software, or correct the path")
	case err != nil:
		return refuse("cannot be read: let the daemon's user read it and every folder above it")
	case !st.Mode().IsRegular():
		return refuse("is not a file: give the path of the PKCS#11 library itself")
	}
	f, err := elf.Open(path)
	if os.IsPermission(err) {
		return refuse("cannot be read: let the daemon's user read it")
	}
	if err != nil {
		return refuse("is not a shared object: give the path of the PKCS#11 library itself")
	}
	defer f.Close()
	if f.Type != elf.ET_DYN || f.Class != elf.ELFCLASS64 {
		return refuse("is not a 64-bit shared object: give the path of the PKCS#11 library itself")
	}
	// Symbols that cannot be read leave the verdict to the loader.
	symbols, err := f.DynamicSymbols()
	if err == nil && !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == "C_GetFunctionList" }) {
		return refuse("is a shared object, and no PKCS#11 module (it has no C_GetFunctionList): correct the path")
	}
	return nil
}
