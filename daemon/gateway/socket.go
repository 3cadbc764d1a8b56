package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what sockaddr_un holds (unix(7)), without its ending zero.
const maxSocketPath = 107

// listenSocket opens the unix socket with mode 0600, in place of one that a dead process left.
func listenSocket(path string, logger *slog.Logger) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("unix socket %s: the path has %d bytes, the system allows %d: choose a shorter data directory", path, len(path), maxSocketPath)
	}
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on the unix socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("unix socket: %w", err), listener.Close())
	}
	return &peered{listener, logger}, nil
}

// clearSocket removes a socket that nobody answers on, and nothing else.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unix socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("unix socket: %s is no socket: move it away", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("unix socket: another process answers on %s: stop it first", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("unix socket: %w", err)
	}
	return os.Remove(path)
}

// peered is a unix listener that lets in root and the daemon's own user only.
type peered struct {
	net.Listener
	logger *slog.Logger
}

// Accept implements net.Listener.
func (l *peered) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerOf(conn)
		if err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return &peerConn{conn, uid}, nil
		}
		l.logger.Warn("unix socket: a user other than root and the daemon's own was turned away", "uid", uid, "error", err)
		_ = conn.Close() // nothing was said on it
	}
}

// peerOf asks the kernel who connected (SO_PEERCRED, unix(7)).
func peerOf(conn net.Conn) (uint32, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix connection")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

type peerConn struct {
	net.Conn
	uid uint32
}

type peerKey struct{}

func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if peer, ok := conn.(*peerConn); ok {
		return context.WithValue(ctx, peerKey{}, peer.uid)
	}
	return ctx
}

// PeerUID gives the user at the other end of a unix socket; false for a request that came another way.
func PeerUID(ctx context.Context) (uid uint32, ok bool) {
	uid, ok = ctx.Value(peerKey{}).(uint32)
	return uid, ok
}
