package kv_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"warder/keystore/kv"
)

// TestPanicInApply lets Apply panic: the store stops and says what panicked,
// but does not blame its files.
func TestPanicInApply(t *testing.T) {
	for want, cause := range map[string]any{
		"*fs.PathError":             &os.PathError{Op: "guess"},
		"string: an invariant":      "an invariant",
		"runtime.boundsError: ":     nil, // an index out of range
		"errors.errorString: wrong": errors.New("wrong"),
	} {
		calls := 0
		s, err := kv.OpenStore(kv.StoreConfig{Dir: t.TempDir(), Free: func(string) (uint64, error) {
			if calls++; calls == 1 {
				return 1 << 40, nil
			}
			if cause == nil {
				return uint64("short"[calls+5]), nil
			}
			panic(cause)
		}})
		must(t, err)
		_, err = s.Apply(1, [][]byte{encode(t, put(record("a"), "v"))})
		if !errors.Is(err, kv.ErrStopped) || errors.Is(err, kv.ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := s.Apply(1, nil); !errors.Is(err, kv.ErrStopped) || s.Applied() != 0 {
			t.Errorf("%s, then: %v", want, err)
		}
		must(t, s.Close())
	}
}
