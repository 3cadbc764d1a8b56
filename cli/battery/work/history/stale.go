package history

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Stale holds every read to the bound: what it showed was the register's value at some moment between bound before it was
// asked, or for a linearizable one the moment at which it was asked, and its answer. A value that nobody wrote, or whose
// write was refused, never was.
func Stale(ops []Op, bound time.Duration) []error {
	var wrong []error
	keyed := byKey(ops, Write, Read)
	for _, key := range slices.Sorted(maps.Keys(keyed)) {
		writes := byKey(keyed[key], Write)[key]
		for _, read := range byKey(keyed[key], Read)[key] {
			since := read.Call - bound
			if read.Fresh {
				since = read.Call
			}
			if read.Outcome == Done && !current(writes, read, since) {
				wrong = append(wrong, fmt.Errorf("%s: not the value of any moment since %s", read, since))
			}
		}
	}
	return wrong
}

// current says whether some write of the value that was read can have been the last one at a moment since some time.
func current(writes []Op, read Op, since time.Duration) bool {
	if read.Value == "" && ended(writes, 0) >= since {
		return true // nothing was written yet
	}
	return slices.ContainsFunc(writes, func(write Op) bool {
		if write.Value != read.Value || write.Outcome == Refused || write.Call > read.Return {
			return false
		}
		return write.Outcome == Unknown || ended(writes, write.Return) >= since
	})
}

// never is a time that no history reaches.
const never = time.Duration(1<<63 - 1)

// ended is the latest moment until which a write that was over at some time can have been the last one: the earliest end
// of an acknowledged write that began after it.
func ended(writes []Op, over time.Duration) time.Duration {
	end := never
	for _, write := range writes {
		if write.Outcome == Done && write.Call >= over {
			end = min(end, write.Return)
		}
	}
	return end
}
