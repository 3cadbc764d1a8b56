// Package codec holds the strict reading of requests: unknown fields, oversize
// bodies and values that break their rules are each refused with a stable
// reason (docs/reasons.md).
//
// Connect decodes a message before any interceptor sees it, and answers a
// failure by itself, without a detail and, for JSON, with a piece of the body in
// the message. So these codecs never fail: they leave an empty message that
// bears a mark, and Check turns the mark into a refusal. A server must therefore
// call Check on each request, after authentication and before anything else
// reads the message; Interceptor does it where no other place is wanted.
//
// JSON of the requests and answers that come most often is read and written here
// in its plain spelling, and by protojson in every other: read.go and write.go.
// In the same way Check accepts them by itself where they plainly keep the rules,
// and leaves every other verdict to protovalidate: accept.go.
package codec
