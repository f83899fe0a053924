package admin

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/url"
	"reflect"

	"github.com/rowhouse/rowhouse/catalog"
)

// PageInput is which part of a list is wanted. It is exported because what embeds it is read by reflection.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most"`
	Cursor string `query:"cursor" maxLength:"400" doc:"The next_cursor of the page before"`
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

// paged answers a page of the list at path under the filters. It reads one row more than is wanted, to know whether there
// is a next page. A cursor is the key of the last item that was given, so items that come and go in between shift nothing.
func paged[Item any](path string, filters url.Values, in PageInput, key func(Item) string, read func(catalog.Page) ([]Item, error)) (*listOutput[Item], error) {
	of := basePath + path + "?" + filters.Encode()
	after, err := readCursor(of, in.Cursor)
	if err != nil {
		return nil, err
	}
	items, err := read(catalog.Page{After: after, Limit: in.Limit + 1})
	if err != nil {
		if in.Cursor != "" && errors.Is(err, catalog.ErrInvalid) {
			return nil, errCursor
		}
		return nil, err
	}
	if len(items) <= in.Limit {
		return everything(items), nil
	}
	out := everything(items[:in.Limit])
	next := newCursor(of, key(items[in.Limit-1]))
	query := url.Values{"limit": {fmt.Sprint(in.Limit)}, "cursor": {next}}
	for name, values := range filters {
		query[name] = values
	}
	out.Body.NextCursor = &next
	out.Link = fmt.Sprintf(`<%s%s?%s>; rel="next"`, basePath, path, query.Encode())
	return out, nil
}

// errCursor answers a cursor that this list, under these filters, did not give.
var errCursor = newProblem(http.StatusBadRequest, "cursor_invalid", "The cursor is none that this list gave under these filters; begin without one")

// newCursor makes a key opaque. The sum ties it to its list: a cursor of another one would skip items and say nothing.
func newCursor(of, key string) string {
	sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(of+"\x00"+key)))
	return base64.RawURLEncoding.EncodeToString(append(sum, key...))
}

func readCursor(of, cursor string) (key string, err error) {
	if cursor == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(text) < 5 || newCursor(of, string(text[4:])) != cursor {
		return "", errCursor
	}
	return string(text[4:]), nil
}

// filters are the query parameters of a list besides its page; empty ones are left out.
func filters(pairs ...string) url.Values {
	found := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			found.Set(pairs[i], pairs[i+1])
		}
	}
	return found
}

// everything makes a whole list a page of its own.
func everything[Item any](all []Item) *listOutput[Item] {
	if all == nil {
		all = []Item{}
	}
	return &listOutput[Item]{Body: list[Item]{Items: all}}
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
