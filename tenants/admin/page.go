package admin

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"reflect"

	"github.com/rowhouse/rowhouse/catalog"
)

// pageInput is which part of a list is wanted.
type pageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most"`
	Cursor string `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before"`
}

// list is one page of a list.
type list[Item any] struct {
	Items      []Item  `json:"items" nullable:"false"`
	NextCursor *string `json:"next_cursor" doc:"Where the next page begins; null on the last"`
}

type listOutput[Item any] struct {
	Link string `header:"Link"`
	Body list[Item]
}

// page cuts a page out of a list whose items are in the order of their keys. Its cursor is the key of the last item that was
// given, so items that come and go in between shift nothing.
func page[Item any](path string, query url.Values, in pageInput, all []Item, key func(Item) string, before func(a, b string) bool) (*listOutput[Item], error) {
	after, err := base64.RawURLEncoding.DecodeString(in.Cursor)
	if err != nil {
		return nil, fmt.Errorf("cursor is not one of ours: %w", catalog.ErrInvalid)
	}
	out := &listOutput[Item]{Body: list[Item]{Items: []Item{}}}
	for _, item := range all {
		if in.Cursor != "" && !before(string(after), key(item)) {
			continue
		}
		if len(out.Body.Items) == in.Limit {
			next := base64.RawURLEncoding.EncodeToString([]byte(key(out.Body.Items[in.Limit-1])))
			out.Body.NextCursor = &next
			query.Set("limit", fmt.Sprint(in.Limit))
			query.Set("cursor", next)
			out.Link = fmt.Sprintf(`<%s?%s>; rel="next"`, path, query.Encode())
			break
		}
		out.Body.Items = append(out.Body.Items, item)
	}
	return out, nil
}

func ascending(a, b string) bool  { return a < b }
func descending(a, b string) bool { return a > b }

// everything makes a whole list a page of its own.
func everything[Item any](all []Item) *listOutput[Item] {
	if all == nil {
		all = []Item{}
	}
	return &listOutput[Item]{Body: list[Item]{Items: all}}
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
