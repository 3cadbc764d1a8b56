package broker_test

import (
	"os"
	"testing"

	"warder/daemon/broker"
)

func registry(t testing.TB) *broker.Registry {
	t.Helper()
	r, err := broker.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func vectors(t testing.TB) []broker.Vector {
	t.Helper()
	text, err := os.ReadFile("testdata/resign.json")
	if err != nil {
		t.Fatal(err)
	}
	list, err := broker.ParseVectors(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestResignVectors(t *testing.T) {
	for _, r := range registry(t).Check(vectors(t)) {
		if r.Err != nil {
			t.Errorf("%d %s (%s): %v", r.Index, r.Broker, r.Variant, r.Err)
		}
	}
}
