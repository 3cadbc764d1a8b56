package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"warder/cluster"
	"warder/daemon/pki"
	"warder/daemon/seal"
)

// errNodeRefused says that a peer's certificate is not that of an admitted member.
var errNodeRefused = errors.New("the peer is no admitted member, or its certificate is bound to another HSM")

// admitNode holds a peer's certificate against what this node knows of the members. Where it is unsealed and up to date
// the member's record decides alone. A node that is sealed, or has been away, cannot tell an evicted node from one that
// has joined since and may lead by now: it refuses those whose eviction it remembers in its home, and takes the
// authority's signature for the others, or it would never hear of its cluster again.
func (m *member) admitNode(id string, certificate *x509.Certificate) error {
	bound, ok := pki.HSMFingerprint(certificate)
	if !ok {
		return errNodeRefused
	}
	record, current := m.recordOf(id)
	switch {
	case record != nil && record.NodeFingerprint() == bound:
		return nil
	case current, m.home.Load().WasEvicted(id, pki.IssuedAt(certificate)):
		return errNodeRefused
	}
	return nil
}

// recordOf gives the member's record, nil where there is none or it cannot be read; current says that this is the
// cluster's last word.
func (m *member) recordOf(id string) (record *seal.Member, current bool) {
	if m.node.current.Load() != m || m.keeper.Sealed() { // not this member yet: its keeper may not be there
		return nil, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	found, known, err := m.keeper.Member(ctx, id)
	if err != nil {
		return nil, false
	}
	current = m.raft.Staleness() <= m.node.cfg.Staleness
	if !known {
		return nil, current
	}
	return &found, current
}

// peersEvery is how often the home is held against the cluster's configuration, which nobody announces.
const peersEvery = 5 * time.Second

// rememberPeers keeps in the home whom this node could be rebuilt from, and who was evicted.
func (m *member) rememberPeers(ctx context.Context) error {
	evictions := m.db.Watch(seal.EvictionsPrefix())
	defer evictions.Close()
	tick := time.NewTicker(peersEvery)
	defer tick.Stop()
	for {
		if err := m.notePeers(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-evictions.C():
		case <-tick.C:
		}
	}
}

// notePeers changes nothing while the node is behind: what it would note is what was.
func (m *member) notePeers(ctx context.Context) error {
	members, _ := m.raft.Members(ctx) // none where the node has stopped
	if len(members) == 0 || m.raft.Staleness() > m.node.cfg.Staleness {
		return nil
	}
	evicted, sealed := m.keeper.Evicted(ctx)
	if sealed != nil {
		evicted = nil // who left the configuration is all that a sealed node sees
	}
	return m.updateHome(func(home *seal.Home) {
		now, before := time.Now(), home.Peers
		home.Peers = peersOf(members, home.Node)
		home.NoteEvicted(goneFrom(before, home.Peers, now), now)
		home.NoteEvicted(evicted, now)
	})
}

func peersOf(members []cluster.Member, self string) []string {
	var peers []string
	for _, member := range members {
		if member.ID != self {
			peers = append(peers, member.ID)
		}
	}
	return peers
}

func goneFrom(before, now []string, at time.Time) map[string]time.Time {
	gone := map[string]time.Time{}
	for _, id := range before {
		if !slices.Contains(now, id) {
			gone[id] = at
		}
	}
	return gone
}
