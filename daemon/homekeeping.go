package daemon

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"time"

	"warder/daemon/pki"
	"warder/daemon/rpc"
	"warder/daemon/seal"
)

// renewEvery is how often the node's certificate is looked at; it is renewed when a third of its life is left.
const renewEvery = time.Hour

// updateHome changes the home's file and then what the member uses of it. change gets a copy, and replaces slices and
// maps in it where they change.
func (m *member) updateHome(change func(*seal.Home)) error {
	m.homeMu.Lock()
	defer m.homeMu.Unlock()
	home := *m.home.Load()
	before := home
	change(&home)
	if reflect.DeepEqual(before, home) {
		return nil
	}
	if err := home.Save(m.node.cfg.DataDir); err != nil {
		return err
	}
	return m.adoptHome(home)
}

// Housekeeping of the storage, and of what has had its time.
const (
	collectEvery = time.Hour
	sweepEvery   = 10 * time.Second
)

// sweep destroys credentials' versions whose grace has ended, on the leader, and gives the disk back what the state no
// longer needs, on every node.
func (m *member) sweep(ctx context.Context) error {
	sweep, collect := time.NewTicker(sweepEvery), time.NewTicker(collectEvery)
	defer sweep.Stop()
	defer collect.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-collect.C:
			err = m.store.RunGC()
		case <-sweep.C:
			if m.raft.IsLeader() && !m.keeper.Sealed() {
				_, err = m.credentials.Sweep(ctx, time.Now())
			}
		}
		if err != nil && ctx.Err() == nil {
			m.logger.Warn("housekeeping is behind; it is tried again", "error", err)
		}
	}
}

// followRoots keeps the cluster's trusted roots in the home, and with it in every new connection.
func (m *member) followRoots(ctx context.Context) error {
	watcher := m.db.Watch(pki.Prefix())
	defer watcher.Close()
	for {
		text, err := m.authority.RootsPEM(ctx)
		if err == nil {
			err = m.updateHome(func(home *seal.Home) { home.Roots = text })
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.C():
		}
	}
}

// renew certifies the node's TLS key again in good time. What fails is tried again; an expired certificate shows in
// the log of every peer.
func (m *member) renew(ctx context.Context) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		if err := m.renewOnce(ctx); err != nil && ctx.Err() == nil && !m.keeper.Sealed() {
			m.logger.Warn("the node's certificate was not renewed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *member) renewOnce(ctx context.Context) error {
	current := m.certificate.Load()
	leaf, err := x509.ParseCertificate(current.Certificate[0])
	if err != nil {
		return fmt.Errorf("the node's certificate: %w", err)
	}
	if time.Until(leaf.NotAfter) > leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return nil
	}
	if err := m.raft.Clock(); err != nil { // a certificate of a time to come would shut the node out
		return err
	}
	fingerprint, ok := pki.HSMFingerprint(leaf)
	if !ok {
		return errors.New("it is bound to no HSM")
	}
	self, known, err := m.keeper.Member(ctx, m.home.Load().Node)
	if err != nil || !known {
		return errors.Join(err, errNodeRefused)
	}
	hosts, err := rpc.Hosts(self.Address, self.Endpoint)
	if err != nil {
		return err
	}
	request, err := nodeRequest(current)
	if err != nil {
		return err
	}
	renewed, err := m.authority.IssueNode(ctx, request, m.home.Load().Node, hosts, fingerprint)
	if err != nil {
		return err
	}
	return m.updateHome(func(home *seal.Home) { home.Certificate = renewed.PEM })
}

// nodeRequest is a certificate request (PKCS #10) for the key of a TLS certificate.
func nodeRequest(certificate *tls.Certificate) ([]byte, error) {
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, certificate.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return request, nil
}
