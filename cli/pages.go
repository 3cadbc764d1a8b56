package cli

import (
	"google.golang.org/protobuf/proto"
)

// maxPages bounds how much of a list is read: a hundred thousand items.
const maxPages = 1000

type page interface {
	proto.Message
	GetNextPageToken() string
}

// pages reads a whole list and joins its pages into one answer.
func pages[P page](fetch func(token string) (P, error)) (P, error) {
	all, err := fetch("")
	next := all.GetNextPageToken()
	for range maxPages {
		if err != nil || next == "" {
			break
		}
		var more P
		if more, err = fetch(next); err == nil {
			proto.Merge(all, more) // appends the items
			next = more.GetNextPageToken()
		}
	}
	if err != nil {
		return all, err
	}
	reflected := all.ProtoReflect()
	reflected.Clear(reflected.Descriptor().Fields().ByName("next_page_token"))
	return all, nil
}
