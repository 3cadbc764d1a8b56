package pkcs11

import (
	"crypto/sha256"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

// cachedKeys is how many device keys a session keeps unwrapped. They are session objects: they end with the session.
const cachedKeys = 16

// session is a session with one user at a time.
type session struct {
	handle p11.SessionHandle
	age    uint64 // the engine's age when it was opened; an older one is not used again
	keys   map[[sha256.Size]byte]p11.ObjectHandle
	order  [][sha256.Size]byte // least recently used first
}

// pool keeps idle sessions, the last used on top: a hot device key is likely in its cache. How many are out at a time
// is bounded by who asks.
type pool struct {
	mu   sync.Mutex
	idle []*session
}

func (e *engine) take() (*session, error) {
	if s := e.pool.pop(); s != nil {
		return s, nil
	}
	age := e.age.Load()
	handle, err := e.openSession()
	if err != nil && classify(err) != classSession {
		return nil, e.errorf(hsm.ErrUnavailable, "opening a session failed (%s): see that the HSM is connected and has sessions free", code(err))
	}
	if err != nil {
		return nil, err
	}
	return &session{handle: handle, age: age, keys: map[[sha256.Size]byte]p11.ObjectHandle{}}, nil
}

func (p *pool) pop() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	s := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return s
}

// give takes a session back, unless the pool was rebuilt since.
func (e *engine) give(s *session) {
	e.pool.mu.Lock()
	if s.age == e.age.Load() {
		e.pool.idle = append(e.pool.idle, s)
		s = nil
	}
	e.pool.mu.Unlock()
	if s != nil {
		e.drop(s)
	}
}

// drop closes a session that its user is done with. Nobody else holds it; a failed close leaves nothing to do.
func (e *engine) drop(s *session) { _ = e.ctx.CloseSession(s.handle) }

func (e *engine) openSession() (p11.SessionHandle, error) {
	return e.ctx.OpenSession(e.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
}

// cached gives a device key's handle and marks it as used.
func (s *session) cached(key [sha256.Size]byte) (p11.ObjectHandle, bool) {
	handle, ok := s.keys[key]
	if ok {
		s.touch(key)
	}
	return handle, ok
}

func (s *session) touch(key [sha256.Size]byte) {
	for i, k := range s.order {
		if k == key {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
	s.order = append(s.order, key)
}

// keep caches a handle, and gives the one that must be destroyed for it, if any.
func (s *session) keep(key [sha256.Size]byte, handle p11.ObjectHandle) (evicted p11.ObjectHandle, full bool) {
	if len(s.order) == cachedKeys {
		oldest := s.order[0]
		evicted, full = s.keys[oldest], true
		delete(s.keys, oldest)
		s.order = s.order[1:]
	}
	s.keys[key] = handle
	s.touch(key)
	return evicted, full
}
