package transport

import (
	"context"
	"errors"
	"net"
)

// Protocol says what a stream carries; its text is the ALPN name.
type Protocol string

const (
	Raft    Protocol = "warder-raft/1"    // hashicorp/raft's own messages
	Forward Protocol = "warder-forward/1" // package cluster's frames
)

var (
	// ErrClosed is what Accept gives after Close.
	ErrClosed = errors.New("transport is closed")
	// ErrPeer marks a peer that did not prove to be who it must be.
	ErrPeer = errors.New("peer is refused")
)

// Stream is a connection whose other end has proved to be the member Peer.
type Stream struct {
	net.Conn
	Peer     string
	Protocol Protocol
}

// Network gives streams between members. It is safe for concurrent use.
type Network interface {
	// Dial opens a stream to the member id at addr, "host:port".
	Dial(ctx context.Context, id, addr string, protocol Protocol) (net.Conn, error)
	// Accept waits for a stream that a member opened; ErrClosed after Close.
	Accept() (Stream, error)
	// Cut closes every stream to and from the member id.
	Cut(id string)
	// Close closes the listener and every stream.
	Close() error
}
