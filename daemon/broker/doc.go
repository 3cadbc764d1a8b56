// Package broker signs requests for brokers, by profile.
//
// A broker is a [Profile]: data, in YAML, with no loops and no functions of its own.
// It names the hosts a request may go to, the fields of the secret, the schemes by
// which a request is signed, and the class of every endpoint. Loading a profile
// compiles its expressions to a closed set of operations and type-checks them; what
// loads can run.
//
// The only way to a signature is a request that was parsed and classed:
//
//	call, err := profile.Parse(request)        // strict; host pinned; endpoint classed
//	policy is asked with call.Class(), call.Context()
//	signed, err := call.Sign(fields, at)       // the bytes that go on the wire
//
// There is no "sign these bytes", an endpoint without a class is refused, and the
// call that is signed is the very object that was weighed. Bytes are never
// re-serialised: a parameter is cut out, replaced or appended in place, and all
// else stays as the caller wrote it.
//
// A bot that signs its own requests with a lease (a key pair of the broker's form)
// has them verified and signed again by [Call.Resign].
//
// # Expressions
//
// A value is text or bytes; a key is of its algorithm; a condition is a bool.
// Text serves where bytes are wanted, not the other way round.
//
//	inputs  method host path query body ts nonce uuid rand
//	        path_strip('/p') query_decoded query_sorted body_sorted
//	        param('k') json('/p') json_query('/p') json_flat('/p')
//	        header('H') stripped('header:H') cred('f') time('ms')
//	ops     cat join lower upper pctenc pctdec hex hexdec b64 b64url b64dec b64urldec
//	        bcat plus jsonstr part json_of md5 sha1 sha256 sha384 sha512 hmac rsa_pkcs1 ed25519
//	        ecdsa_p256 jwt totp
//	control if eq empty not and opt
//
// param reads one parameter, of the query or of a form body, decoded. An input that
// is absent is an error; opt makes it empty.
package broker
