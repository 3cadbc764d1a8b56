package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"warder/cluster"
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
		Listener: listener, Bootstrap: bootstrap, Logger: m.logger, Observer: m.metrics, Timing: cluster.Timing{Skew: m.node.cfg.ClockSkew, RoundTrip: m.node.cfg.Cluster.RoundTrip},
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
