package work

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

const (
	slots         = 4   // registers that are written at a time
	writesOfOne   = 120 // of one register, before the next takes its place: the check's time grows with them
	thinkOfWriter = 70 * time.Millisecond
	thinkOfReader = 90 * time.Millisecond
)

// slot is one place for a register: credential by credential, each for a while.
type slot struct {
	mu      sync.Mutex
	name    string // guarded by mu: the register of now; "" before the first
	number  int    // guarded by mu: of the next
	written int    // guarded by mu
}

// registers lets writers at every node write the same credentials, and readers at every node read them.
func (c *Crew) registers(ctx context.Context, o *office) {
	all := c.slots
	for i, at := range o.operator {
		c.work(ctx, thinkOfWriter, func(turn int) { c.write(at, all[turn%slots], turn%slots, fmt.Sprintf("%s-%d", at.node, turn)) })
		c.work(ctx, thinkOfReader, func(turn int) { c.read(at, all[(turn+i)%slots].current(), true) })
		c.work(ctx, thinkOfReader, func(turn int) { c.read(at, all[(turn+i)%slots].current(), false) })
	}
}

func newSlots() []*slot {
	all := make([]*slot, slots)
	for i := range all {
		all[i] = &slot{}
	}
	return all
}

// current is the name of the register of now.
func (s *slot) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}

// turn counts a write, and says whether it is to begin the next register: then next is its name.
func (s *slot) turn(number int) (now, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written++
	if s.name != "" && s.written < writesOfOne {
		return s.name, ""
	}
	s.written = 0
	s.number++
	return "", fmt.Sprintf("register-%d-%d", number, s.number)
}

func (s *slot) began(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = name
}

// write writes a register, or begins one.
func (c *Crew) write(at *line, s *slot, number int, value string) {
	now, next := s.turn(number)
	if now != "" {
		_, op := ask(at, history.Op{Kind: history.Write, Key: now, Value: value}, at.Credentials.RotateCredential, &warderv1.RotateCredentialRequest{
			Namespace: namespace, Name: now, Fields: secretField(value), Grace: durationpb.New(0),
		}, warderv1.Reason_REASON_CONFLICT, warderv1.Reason_REASON_NOT_FOUND)
		c.add(op)
		return
	}
	if c.create(at, next, value).Outcome == history.Done {
		s.began(next)
	}
}

// create stores a credential under a name of its own.
func (c *Crew) create(at *line, name, value string) history.Op {
	_, op := ask(at, history.Op{Kind: history.Write, Key: name, Value: value}, at.Credentials.PutCredential, &warderv1.PutCredentialRequest{
		Namespace: namespace, Name: name, Profile: "static", Fields: secretField(value),
	}, warderv1.Reason_REASON_CONFLICT)
	c.add(op)
	return op
}

// read reads a register.
func (c *Crew) read(at *line, name string, fresh bool) {
	if name == "" {
		return
	}
	c.add(reveal(at, name, fresh))
}

// reveal reads a register; one that is not there holds "".
func reveal(at *line, name string, fresh bool) history.Op {
	answer, op := ask(at, history.Op{Kind: history.Read, Key: name, Fresh: fresh}, at.Credentials.RevealCredential,
		&warderv1.RevealCredentialRequest{Namespace: namespace, Name: name}, warderv1.Reason_REASON_NOT_FOUND)
	if op.Reason == "NOT_FOUND" {
		op.Outcome = history.Done
		return op
	}
	for _, field := range answer.GetFields() {
		if field.GetName() == "secret" {
			op.Value = string(field.GetValue())
		}
	}
	return op
}

func secretField(value string) []*warderv1.SecretField {
	return []*warderv1.SecretField{{Name: "secret", Value: []byte(value)}}
}
