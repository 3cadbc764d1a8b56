package kv

// markEvery is how many log entries may pass between two marks.
const markEvery = 4096

// Apply applies one log entry: the batches that clients proposed, grouped. Each
// has its own preconditions and its own result (see [DecodeResult]); one that
// is refused, or is no batch at all, does not touch its neighbours, and a later
// one sees what an earlier one did. What Apply does depends on the entries
// before it and on nothing else. It returns when the change is on disk.
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

// apply applies what follows the batches that results has answers for. One
// Badger transaction takes the whole entry, unless that is too large: then
// several do, and the state says how far the entry got.
func (s *Store) apply(index uint64, entries, results [][]byte) ([][]byte, error) {
	c := newChange(s.gen.db, s.state)
	defer func() { c.txn.Discard() }()
	c.state.index = index
	for i := len(results); i < len(entries); i++ {
		r, err := c.entry(entries[i])
		if err != nil {
			return nil, err
		}
		results = append(results, r.Encode())
		if c.full() && i+1 < len(entries) {
			c.state.interrupt(s.state, i+1)
			if err := s.commit(c); err != nil {
				return nil, err
			}
			c.txn.Discard()
			c = newChange(s.gen.db, s.state)
		}
	}
	c.state.part, c.state.whole = 0, [32]byte{}
	if err := s.commit(c); err != nil {
		return nil, err
	}
	if index-s.marked >= markEvery {
		return results, s.writeMark()
	}
	return results, nil
}

// commit writes the change durably, then lets readers and watchers see it.
func (s *Store) commit(c *change) error {
	if err := s.checkSpace(); err != nil {
		return err
	}
	if err := c.commit(s.gen.db); err != nil {
		return err
	}
	if err := s.gen.log.err(); err != nil {
		return err
	}
	s.mu.Lock()
	s.state = c.state
	s.mu.Unlock()
	if len(c.touched) != 0 {
		s.tell(c.touched)
	}
	return nil
}
