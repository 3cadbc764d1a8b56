package reason

import (
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
)

// New makes the error of a refusal: its code is the reason's, and its detail is
// an ErrorInfo with the reason's default hint. The message says what happened
// and to what, and holds no secret.
func New(r warderv1.Reason, message string) *connect.Error {
	return With(&warderv1.ErrorInfo{Reason: r}, message)
}

// With is New with more in the detail. It takes a copy of info and fills in the
// default hint when it has none. A reason without a row becomes INTERNAL.
func With(info *warderv1.ErrorInfo, message string) *connect.Error {
	row := Lookup(info.GetReason())
	full := proto.CloneOf(info)
	full.Reason = row.Reason
	if full.Hint == "" {
		full.Hint = row.Next
	}
	err := connect.NewError(row.Code, errors.New(message))
	if detail, detailErr := connect.NewErrorDetail(full); detailErr == nil {
		err.AddDetail(detail)
	}
	return err
}

// Info returns the detail of an error that crossed the wire or was made by New,
// and false when it has none.
func Info(err error) (*warderv1.ErrorInfo, bool) {
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return nil, false
	}
	for _, detail := range remote.Details() {
		value, valueErr := detail.Value()
		if info, ok := value.(*warderv1.ErrorInfo); ok && valueErr == nil {
			return info, true
		}
	}
	return nil, false
}

// Of returns an error's reason, or REASON_UNSPECIFIED when it carries none.
func Of(err error) warderv1.Reason {
	info, _ := Info(err)
	return info.GetReason()
}
