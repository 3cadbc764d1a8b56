// Package gateway is the edge of the daemon: its listeners, TLS, and the limits of size, time and number that hold
// before anybody is authenticated.
//
// Callers come over TCP with TLS, where a client certificate is asked for but not judged: the handshake proves that
// the caller has its key, and who that is is decided behind the gateway, on every request. Operators on the machine
// come over a unix socket, where the kernel says which user is at the other end (SO_PEERCRED); only root and the
// daemon's own user are let in. Metrics go over plain HTTP on an address of their own.
//
// The gateway serves /healthz and /readyz itself, on every listener.
package gateway
