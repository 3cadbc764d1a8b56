package cluster

import (
	"bytes"
	"errors"
	"testing"
)

// The decoders of what other members send and of what the log holds are not exported: they are tested here.

func FuzzGroup(f *testing.F) {
	f.Add(encodeGroup(nil))
	f.Add(encodeGroup([][]byte{[]byte("a"), {}, []byte("bcd")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := decodeGroup(data)
		if err != nil {
			if !errors.Is(err, errGroup) {
				t.Errorf("got %v", err)
			}
			return
		}
		if !bytes.Equal(encodeGroup(entries), data) {
			t.Error("two encodings of one group")
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frame{askPropose, 7, []byte("entry")}))
	f.Add(appendFrame(nil, frame{askStatus, 8, nil}))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := readFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		if again := appendFrame(nil, got); !bytes.Equal(again, data[:len(again)]) {
			t.Error("two encodings of one frame")
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add(status{demoted: 3, last: 9, outside: true, samples: []sample{{index: 1}, {index: 2}}}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeStatus(data)
		if err == nil && len(got.encode()) != len(data) {
			t.Error("two encodings of one status")
		}
	})
}

func FuzzAdmit(f *testing.F) {
	f.Add([]byte("\x02n1127.0.0.1:80"))
	f.Fuzz(func(t *testing.T, data []byte) {
		id, hostPort, err := decodeAdmit(data)
		if err == nil && string(data) != string(rune(len(id)))+id+hostPort {
			t.Errorf("%q is taken for %q at %q", data, id, hostPort)
		}
	})
}

func TestFrameTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	head := appendFrame(nil, frame{kind: askPropose})
	head[0] = 0x7f
	if _, err := readFrame(bytes.NewReader(head)); !errors.Is(err, errFrame) {
		t.Errorf("got %v, want errFrame", err)
	}
}

func TestDivergence(t *testing.T) {
	at := func(index uint64, hash byte) status { return status{samples: []sample{{index, [32]byte{hash}}}} }
	for name, row := range map[string]struct {
		states  map[string]status
		index   uint64
		odd     string
		decided bool
	}{
		"all agree":           {map[string]status{"a": at(5, 1), "b": at(5, 1), "c": at(5, 1)}, 0, "", false},
		"at other indexes":    {map[string]status{"a": at(5, 1), "b": at(6, 2), "c": at(7, 3)}, 0, "", false},
		"one is odd":          {map[string]status{"a": at(5, 1), "b": at(5, 1), "c": at(5, 2)}, 5, "c", true},
		"one is odd, one out": {map[string]status{"a": at(5, 1), "c": at(5, 2)}, 5, "", false},
	} {
		index, odd, decided := divergence(row.states, 3)
		if index != row.index || decided != row.decided || row.odd != "" && (len(odd) != 1 || odd[0] != row.odd) {
			t.Errorf("%s: got %d, %v, %v", name, index, odd, decided)
		}
	}
}
