package codec

// What the tests hold against protojson.
var (
	ReadPlain  = readPlain
	WritePlain = writePlain
)
