package device

import (
	"crypto"
	"sync"

	"warder/daemon/identity"
)

// cachedSigners bounds how many parsed private keys of custody "sealed" this process keeps.
const cachedSigners = 4096

// signerKey names a parsed key. It holds the entry's revision, so that a key that was changed in any way (rotated,
// retired, destroyed) is never found under its old name: each use reads the entry first.
type signerKey struct {
	namespace, name identity.Name
	version         uint32
	revision        uint64
}

// signerCache keeps parsed keys, and forgets any one of them when it is full.
type signerCache struct {
	most int

	mu      sync.RWMutex
	signers map[signerKey]crypto.Signer // guarded by mu
}

func newSignerCache(most int) *signerCache {
	return &signerCache{most: most, signers: map[signerKey]crypto.Signer{}}
}

func (c *signerCache) get(key signerKey) (crypto.Signer, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	signer, ok := c.signers[key]
	return signer, ok
}

func (c *signerCache) put(key signerKey, signer crypto.Signer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for any := range c.signers {
		if len(c.signers) < c.most {
			break
		}
		delete(c.signers, any)
	}
	c.signers[key] = signer
}

func (c *signerCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.signers)
}
