package keyring

import "sync/atomic"

// Holder is where a node keeps its unsealed keyring. The zero value is sealed. It is safe for concurrent use.
type Holder struct{ current atomic.Pointer[Keyring] }

// Keyring gives the keyring, or ErrSealed.
func (h *Holder) Keyring() (*Keyring, error) {
	k := h.current.Load()
	if k == nil {
		return nil, ErrSealed
	}
	return k, nil
}

// Set makes k the node's keyring.
func (h *Holder) Set(k *Keyring) { h.current.Store(k) }

// Clear seals the node.
func (h *Holder) Clear() { h.current.Store(nil) }
