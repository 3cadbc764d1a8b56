package daemon_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// FuzzRequest sends any body to any method, in every form that a caller may choose: to the handlers of the hot methods, to
// Connect's, as gRPC and as gRPC-Web. By the operator, so that it is not refused before it is looked at. Whatever comes of
// it is an answer or a refusal with a reason, and never a fault of the node's.
func FuzzRequest(f *testing.F) {
	n := startNode(f)
	bodies := requests(f, "default")
	for _, apart := range []string{"SystemService/Seal", "ClusterService/StepDown", "ClusterService/RotateRoot", "ClusterService/RotateData"} {
		delete(bodies, apart) // these take no bytes, and the node away or time
	}
	methods := slices.Sorted(maps.Keys(bodies))
	forms := []string{
		"application/json", "application/json; charset=utf-8", "application/proto", "application/connect+json", "application/connect+proto",
		"application/grpc", "application/grpc-web+proto", "application/grpc+json",
	}
	for i, name := range methods {
		f.Add(uint8(i), uint8(0), []byte(bodies[name]))
		f.Add(uint8(i), uint8(1), []byte(bodies[name]))
		f.Add(uint8(i), uint8(2), []byte("\n\x07default\x12\x01x"))
	}
	f.Fuzz(func(t *testing.T, method, form uint8, body []byte) {
		name, kind := methods[int(method)%len(methods)], forms[int(form)%len(forms)]
		if strings.HasSuffix(name, "/TailAudit") && kind != "application/json" {
			return // a stream that follows has no end of its own
		}
		got := n.send(t, n.operator, "/warder.v1."+name, kind, body)
		if got.status >= 500 && got.status != 501 && got.status != 503 && got.status != 504 || got.reason == "INTERNAL" {
			t.Errorf("%s as %s: %d %s", name, kind, got.status, got.body)
		}
	})
}
