package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"warder/cluster"
	"warder/daemon/pki"
	"warder/keystore/kv"
)

// The folders below the data directory.
const (
	stateFolder = "state"
	raftFolder  = "raft"
)

// openStorage opens the audit log, the state and the Raft log. Damage in the state or the Raft log is named, set
// aside, and rebuilt from what is whole: the state from this node's own log and snapshots, the Raft log from the other
// members. Where there is nothing to rebuild from, the node stops.
func (m *member) openStorage(bootstrap bool) (err error) {
	if m.log, err = m.openAudit(); err != nil {
		return err
	}
	config := kv.StoreConfig{Dir: m.node.path(stateFolder), Logger: m.logger}
	m.store, err = kv.OpenStore(config)
	if errors.Is(err, kv.ErrDamaged) {
		if err = m.setAside(stateFolder, err); err == nil {
			m.store, err = kv.OpenStore(config)
		}
	}
	if err != nil {
		return fmt.Errorf("open the state: %w", err)
	}
	m.raft, err = m.openCluster(bootstrap)
	if errors.Is(err, cluster.ErrDamaged) {
		if len(m.home.Load().Peers) == 0 {
			return fmt.Errorf("%w; this node is the only member, so nothing can rebuild it: restore its data directory from a backup", err)
		}
		if err = m.setAsideAll(err); err == nil {
			m.raft, err = m.openCluster(false)
		}
	}
	if err != nil {
		return fmt.Errorf("open the cluster's log: %w", err)
	}
	return nil
}

// setAsideAll moves the Raft log away, and the state with it: a state that is ahead of its log is of no use. Both come
// anew from the other members, who take this node's vote from it until it has caught up.
func (m *member) setAsideAll(damage error) error {
	err := m.store.Close()
	m.store = nil
	if err != nil {
		m.logger.Warn("closing the state", "error", err)
	}
	for _, folder := range []string{raftFolder, stateFolder} {
		if err := m.setAside(folder, damage); err != nil {
			return err
		}
	}
	m.store, err = kv.OpenStore(kv.StoreConfig{Dir: m.node.path(stateFolder), Logger: m.logger})
	return err
}

// setAside moves a damaged folder away, for somebody to look at.
func (m *member) setAside(folder string, damage error) error {
	aside := fmt.Sprintf("%s.damaged-%s", m.node.path(folder), time.Now().UTC().Format("20060102T150405.000000000"))
	m.logger.Error("storage is damaged: it is set aside and rebuilt", "damage", damage, "moved_to", aside)
	if err := os.Rename(m.node.path(folder), aside); err != nil {
		return fmt.Errorf("%w; setting it aside failed: %w", damage, err)
	}
	return nil
}

func (m *member) openCluster(bootstrap bool) (*cluster.Node, error) {
	listener, err := listen(m.node.cfg.Cluster.Listen)
	if err != nil {
		return nil, err
	}
	raft, err := cluster.Open(cluster.Config{
		ID: m.home.Load().Node, Dir: m.node.path(raftFolder), Advertise: m.node.cfg.Cluster.Advertise, Machine: machine{m.store},
		Listener: listener, Bootstrap: bootstrap, Logger: m.logger, Observer: m.metrics,
		TLS: cluster.TLS{
			Certificate: func() *tls.Certificate { return m.certificate.Load() },
			Roots:       func() *x509.CertPool { return m.roots.Load() },
			Admit:       m.admitNode,
		},
	})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return raft, nil
}

// errNodeRefused says that a peer's certificate is not that of an admitted member.
var errNodeRefused = errors.New("the peer is no admitted member, or its certificate is bound to another HSM")

// admitNode holds a peer's certificate against the member's record: it must be bound to the HSM that was admitted.
// A sealed node cannot read the records; the authority's signature and the cluster's configuration stand alone then.
func (m *member) admitNode(id string, certificate *x509.Certificate) error {
	if m.keeper == nil || m.keeper.Sealed() {
		return nil
	}
	bound, ok := pki.HSMFingerprint(certificate)
	if !ok {
		return errNodeRefused
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	found, known, err := m.keeper.Member(ctx, id)
	if err != nil {
		return nil // it cannot be read just now: as on a sealed node
	}
	if !known || found.NodeFingerprint() != bound {
		return errNodeRefused
	}
	return nil
}

// peersEvery is how often the home's list of peers is held against the cluster's.
const peersEvery = 5 * time.Second

// rememberPeers keeps in the home whom this node could be rebuilt from.
func (m *member) rememberPeers(ctx context.Context) error {
	tick := time.NewTicker(peersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		members, err := m.raft.Members(ctx)
		if err != nil || len(members) == 0 {
			continue
		}
		if err := m.updateHome(peersOf(members, m.home.Load().Node)); err != nil {
			return err
		}
	}
}
