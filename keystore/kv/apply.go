package kv

import "slices"

// Apply applies one log entry: the batches that clients proposed, grouped. Each
// has its own preconditions and its own result (see [DecodeResult]); one that
// is refused, or is no batch at all, does not touch its neighbours, and a later
// one sees what an earlier one did. What Apply does depends on the entries
// before it and on nothing else. It returns when the change is on
// disk or, while [Store.Run] runs, when it can be read.
//
// An entry at or below [Store.Applied] is skipped with [StatusReplayed]
// results, and so are the batches of an unfinished entry that were applied
// before a crash; such an entry must come first, and as it was. An error means
// that the disk failed or lied, that the log did, or that the process itself is
// not sound: the store takes no change any more ([ErrStopped]) and the process
// must stop.
func (s *Store) Apply(index uint64, entries [][]byte) (results [][]byte, err error) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	first := s.state.first(index, len(entries))
	results = make([][]byte, 0, len(entries))
	for range first {
		results = append(results, Result{Status: StatusReplayed}.Encode())
	}
	if s.state.holds(index) {
		return results, nil
	}
	if err := s.state.follows(index, len(entries)); err != nil {
		return nil, s.fail(err)
	}
	err = contained(func() (err error) {
		results, err = s.apply(index, entries, results)
		return err
	})
	if err != nil {
		return nil, s.fail(err)
	}
	return results, nil
}

// apply applies what follows the batches that results has answers for. One change takes the whole entry, unless that is
// more than a transaction of Badger takes: then several do, and the state says how far the entry got.
func (s *Store) apply(index uint64, entries, results [][]byte) ([][]byte, error) {
	for last := false; !last; {
		var err error
		if results, last, err = s.applyPart(index, entries, results); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// applyPart applies as many batches as one change takes; last says whether it came to the entry's end.
func (s *Store) applyPart(index uint64, entries, results [][]byte) (_ [][]byte, last bool, err error) {
	before, err := s.view()
	if err != nil {
		return nil, false, err
	}
	defer before.release()
	c := newChange(before, s.state)
	c.state.index = index
	for len(results) < len(entries) && !c.full() {
		r, err := c.entry(entries[len(results)])
		if err != nil {
			return nil, false, err
		}
		results = append(results, r.Encode())
	}
	if last = len(results) == len(entries); last {
		c.state.part, c.state.whole = 0, [32]byte{}
	} else {
		c.state.interrupt(s.state, len(results))
	}
	c.finish()
	return results, last, s.take(c)
}

// take makes a change visible to readers and watchers, and durable: by itself, or behind by [Store.Run].
func (s *Store) take(c *change) error {
	if err := s.keep(c); err != nil {
		return err
	}
	if len(c.touched) != 0 {
		s.tell(c.touched)
	}
	return nil
}

func (s *Store) keep(c *change) error {
	if s.behind == nil || !s.behind() {
		return s.through(c)
	}
	// What opens the node's keys is not shown before it is on the disk: the node tells others that it has it.
	system := slices.ContainsFunc(c.touched, func(t Target) bool { return t.Space.system() })
	s.mu.Lock()
	room := !system && s.ahead.takes(c)
	if room {
		s.change++
		s.ahead.add(s.change, c)
		s.state = c.state
	}
	s.mu.Unlock()
	if !room {
		return s.through(c)
	}
	s.rouse()
	return nil
}

// through writes a change to the disk, after all that came before it, and then shows it.
func (s *Store) through(c *change) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.save(c.rowsChanged, c.state, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change++
	s.state = c.state
	return nil
}
