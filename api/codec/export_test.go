package codec

import "google.golang.org/protobuf/proto"

// What the tests hold against protojson and protovalidate.
var (
	ReadPlain   = readPlain
	WritePlain  = writePlain
	AcceptPlain = acceptPlain
)

// What a request is refused by before it is decoded.
const MaxParts = maxParts

var (
	PartsLeft = partsLeft
	TextParts = textParts
)

// Judge is Check of a request that is not plain.
func (c *Checker) Judge(request proto.Message) error { return c.judge(request) }
