package token

import (
	"crypto/sha256"
	"sync"
)

// maxParsed bounds the tokens of one generation; two generations are kept.
const maxParsed = 4096

// parsed remembers what the tokens verified last say, by the SHA-256 of their text: a caller shows the same token with
// each request, and its signature, which is most of the cost, holds as long as the keys do. What can change is never
// remembered: time, revocation, epoch and binding are looked at each time. It is safe for concurrent use.
type parsed struct {
	mu         sync.RWMutex
	young, old map[[sha256.Size]byte]Claims // guarded by mu
}

func newParsed() *parsed { return &parsed{young: map[[sha256.Size]byte]Claims{}} }

func (p *parsed) find(digest [sha256.Size]byte) (Claims, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if claims, ok := p.young[digest]; ok {
		return claims, true
	}
	claims, ok := p.old[digest]
	return claims, ok
}

func (p *parsed) add(digest [sha256.Size]byte, claims Claims) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.young) >= maxParsed {
		p.old, p.young = p.young, map[[sha256.Size]byte]Claims{}
	}
	p.young[digest] = claims
}
