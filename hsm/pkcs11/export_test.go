package pkcs11

import (
	"context"
	"io"

	"warder/hsm"
)

// Frame is a frame for tests of the wire.
type Frame struct {
	ID     uint32
	Code   uint8
	Fields [][]byte
}

// Encode is frame.encode.
func (f Frame) Encode() ([]byte, error) {
	return frame{id: f.ID, code: f.Code, fields: f.Fields}.encode()
}

// ReadFrame is readFrame.
func ReadFrame(r io.Reader) (Frame, error) {
	f, err := readFrame(r)
	return Frame{ID: f.id, Code: f.code, Fields: f.fields}, err
}

// inProcess is an engine without a child, to measure what the child costs.
type inProcess struct{ engine *engine }

func (l inProcess) do(_ context.Context, op operation, in ...[]byte) ([][]byte, error) {
	return l.engine.perform(op, in)
}
func (l inProcess) info() hsm.Info { return l.engine.info }
func (l inProcess) close()         { _ = l.engine.ctx.Finalize() }

// OpenInProcess opens a token in this very process.
func OpenInProcess(ctx context.Context, config Config) (hsm.Token, error) {
	config = config.withDefaults()
	pin, err := config.PIN(ctx)
	if err != nil {
		return nil, err
	}
	e, err := openEngine(config, pin, keys{})
	if err != nil {
		return nil, err
	}
	return &token{module: inProcess{engine: e}}, nil
}
