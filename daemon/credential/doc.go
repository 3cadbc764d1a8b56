// Package credential keeps brokers' credentials and uses them: it is the one place
// where a broker's secret is in the clear.
//
// A credential belongs to a namespace and is reached by a [Handle], which holds the
// namespace: no operation takes a bare name, the namespace is part of every record's
// key and of what its material is bound to, and so a credential of another namespace
// cannot be reached by accident. Its fields are checked against the broker's profile
// before they are stored.
//
// A credential has versions. [Store.Rotate] makes a new one active and retires the
// old, which is destroyed when its grace has passed; [Store.Stage] adds one that
// waits for [Store.Activate].
//
// [Store.Sign] signs with the active version. Its fields are parsed once for each
// revision of the credential: every call reads the revision, so that a rotation
// holds from the next call on, and [Store.Run] drops what is cached of credentials
// that changed, went, or were sealed.
package credential
