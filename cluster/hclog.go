package cluster

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hcLog lets hashicorp/raft log to slog. The library's routine messages ("Info") become Debug.
type hcLog struct {
	out  *slog.Logger
	name string
}

var _ hclog.Logger = hcLog{}

func newHCLog(out *slog.Logger) hclog.Logger { return hcLog{out: out, name: "raft"} }

func (l hcLog) Log(level hclog.Level, message string, args ...any) {
	mapped := slog.LevelDebug
	switch level {
	case hclog.Warn:
		mapped = slog.LevelWarn
	case hclog.Error:
		mapped = slog.LevelError
	}
	for i, arg := range args {
		if format, ok := arg.(hclog.Format); ok && len(format) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(format[0]), format[1:]...)
		}
	}
	l.out.Log(context.Background(), mapped, l.name+": "+message, args...)
}

func (l hcLog) Trace(string, ...any)                                  {}
func (l hcLog) Debug(message string, args ...any)                     { l.Log(hclog.Debug, message, args...) }
func (l hcLog) Info(message string, args ...any)                      { l.Log(hclog.Info, message, args...) }
func (l hcLog) Warn(message string, args ...any)                      { l.Log(hclog.Warn, message, args...) }
func (l hcLog) Error(message string, args ...any)                     { l.Log(hclog.Error, message, args...) }
func (l hcLog) IsTrace() bool                                         { return false }
func (l hcLog) IsDebug() bool                                         { return l.out.Enabled(context.Background(), slog.LevelDebug) }
func (l hcLog) IsInfo() bool                                          { return l.IsDebug() }
func (l hcLog) IsWarn() bool                                          { return l.out.Enabled(context.Background(), slog.LevelWarn) }
func (l hcLog) IsError() bool                                         { return l.out.Enabled(context.Background(), slog.LevelError) }
func (l hcLog) ImpliedArgs() []any                                    { return nil }
func (l hcLog) With(args ...any) hclog.Logger                         { return hcLog{l.out.With(args...), l.name} }
func (l hcLog) Name() string                                          { return l.name }
func (l hcLog) Named(name string) hclog.Logger                        { return hcLog{l.out, l.name + "." + name} }
func (l hcLog) ResetNamed(name string) hclog.Logger                   { return hcLog{l.out, name} }
func (l hcLog) SetLevel(hclog.Level)                                  {}
func (l hcLog) GetLevel() hclog.Level                                 { return hclog.Debug }
func (l hcLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
func (l hcLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
