// Package client is Warder's Go client: typed services over mutual TLS, with
// several endpoints, retry and typed refusals.
//
//	c, err := client.Dial(client.Config{
//		Endpoints:   []string{"https://10.0.0.1:8443", "https://10.0.0.2:8443"},
//		CA:          pool,
//		Certificate: client.StaticCertificate(certificate),
//	})
//	reply, err := c.Keys.SignWithKey(ctx, request)
//	if errors.Is(err, client.ErrNotFound) { … }
//
// A call goes to the endpoint that last answered. When that one cannot answer,
// the next is tried, within the caller's deadline, and only when the refusal says
// that nothing was done or when the method is marked as idempotent in its .proto.
// A change that may have been done and cannot be asked again comes back as
// ErrOutcomeUnknown.
package client
