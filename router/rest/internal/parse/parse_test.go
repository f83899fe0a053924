package parse

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestReadQuery(t *testing.T) {
	t.Parallel()
	eq := func(name, value string) Filter {
		return Filter{Path: []string{}, Cond: Cond{Field: Field{Name: name}, Op: "eq", Value: value}}
	}
	for _, c := range []struct {
		name, raw string
		want      func(q *Query)
	}{
		{"pairs split at & and ;", "a=eq.1;b=eq.2&c", func(q *Query) { q.Filters = []Filter{eq("a", "1"), eq("b", "2")} }},
		{"plus is a blank, %2B is not", "a=eq.1+2%2B3", func(q *Query) { q.Filters = []Filter{eq("a", "1 2+3")} }},
		{"a value keeps its quotes at the top", `a=eq."x"`, func(q *Query) { q.Filters = []Filter{eq("a", `"x"`)} }},
		{"a name may hold dashes and blanks", "a-b c=eq.1", func(q *Query) { q.Filters = []Filter{eq("a-b c", "1")} }},
		{"a quoted name may hold dots", `"a.b"=eq.1`, func(q *Query) { q.Filters = []Filter{eq("a.b", "1")} }},
		{"a blank before a quote belongs to the element", `a=in.("x", "y",z)`, func(q *Query) {
			q.Filters = []Filter{{Path: []string{}, Cond: Cond{Field: Field{Name: "a"}, Op: "in", List: []string{"x", ` "y"`, "z"}}}}
		}},
		{"a list of one empty element", `a=in.("")`, func(q *Query) {
			q.Filters = []Filter{{Path: []string{}, Cond: Cond{Field: Field{Name: "a"}, Op: "in", List: []string{""}}}}
		}},
		{"the last limit counts, the first order does", "limit=1&limit=2&order=a&order=b&offset=x", func(q *Query) {
			two := int64(2)
			q.Ranges = []Range{{Path: []string{}, Limit: &two}}
			q.Orders = []Orders{{Path: []string{}, Terms: []Order{{Field: Field{Name: "a"}}}}}
		}},
		{"levels have their own", "a.limit=1&a.b.order=c.desc.nullslast&a.or=(b.is.null,c.in.(1,2))", func(q *Query) {
			one := int64(1)
			q.Ranges = []Range{{Path: []string{"a"}, Limit: &one}}
			q.Orders = []Orders{{Path: []string{"a", "b"}, Terms: []Order{{Field: Field{Name: "c"}, Desc: true, Nulls: "last"}}}}
			q.Logic = []Logic{{Path: []string{"a"}, Tree: Tree{Or: true, Members: []Tree{
				{Cond: &Cond{Field: Field{Name: "b"}, Op: "is", Value: "null"}},
				{Cond: &Cond{Field: Field{Name: "c"}, Op: "in", List: []string{"1", "2"}}},
			}}}}
		}},
		{"a column may be called order or and", "or=(order.eq.1,and.eq.2,not.and(a.eq.{1,2},b.eq.x y))", func(q *Query) {
			q.Logic = []Logic{{Tree: Tree{Or: true, Members: []Tree{
				{Cond: &Cond{Field: Field{Name: "order"}, Op: "eq", Value: "1"}},
				{Cond: &Cond{Field: Field{Name: "and"}, Op: "eq", Value: "2"}},
				{Not: true, Members: []Tree{
					{Cond: &Cond{Field: Field{Name: "a"}, Op: "eq", Value: "{1,2}"}},
					{Cond: &Cond{Field: Field{Name: "b"}, Op: "eq", Value: "x y"}},
				}},
			}}}}
		}},
		{"modifiers", "a=not.like(any).{x*}&b=wfts(simple).y", func(q *Query) {
			q.Filters = []Filter{
				{Path: []string{}, Cond: Cond{Field: Field{Name: "a"}, Not: true, Op: "like", Quant: "any", Value: "{x*}"}},
				{Path: []string{}, Cond: Cond{Field: Field{Name: "b"}, Op: "wfts", Lang: "simple", Value: "y"}},
			}
		}},
		{"select in full", `select=*,x:a->b->-1->>"c d"::int4,count(),n:p.sum()::text,...t!fk!inner(*,u()),b:c!left(d)`, func(q *Query) {
			q.Select = []Item{
				{Star: true},
				{Alias: "x", Field: Field{Name: "a", Path: []Step{{Key: "b"}, {Index: true, Key: "-1"}, {Text: true, Key: "c d"}}}, Cast: "int4"},
				{Agg: "count"},
				{Alias: "n", Field: Field{Name: "p"}, Agg: "sum", AggCast: "text"},
				{Embed: true, Spread: true, Target: "t", Hint: "fk", Join: "inner", Items: []Item{{Star: true}, {Embed: true, Target: "u", Items: []Item{}}}},
				{Alias: "b", Embed: true, Target: "c", Join: "left", Items: []Item{{Field: Field{Name: "d"}}}},
			}
		}},
		{"a key that looks like no index", "select=a->>!@#$%25^%26*_a", func(q *Query) {
			q.Select = []Item{{Field: Field{Name: "a", Path: []Step{{Text: true, Key: "!@#$%^&*_a"}}}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadQuery(c.raw, false)
			if err != nil {
				t.Fatal(err)
			}
			want := &Query{Pairs: got.Pairs}
			c.want(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestReadQuery_refuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ raw, message string }{
		{"id=0", `"failed to parse filter (0)" (line 1, column 1)`},
		{"id=not.0", `"failed to parse filter (not.0)" (line 1, column 5)`},
		{"id=eq(any)1", `"failed to parse filter (eq(any)1)" (line 1, column 8)`},
		{"id=in.(1)2", `"failed to parse filter (in.(1)2)" (line 1, column 7)`},
		{"ä!=eq.1", `"failed to parse tree path (ä!)" (line 1, column 2)`},
		{"a->>-78xy=eq.1", `"failed to parse tree path (a->>-78xy)" (line 1, column 8)`},
		{"or=(id.eq.1", `"failed to parse logic tree ((id.eq.1)" (line 1, column 11)`},
		{"select=a,,b", `"failed to parse select parameter (a,,b)" (line 1, column 3)`},
		{"select=a::", `"failed to parse select parameter (a::)" (line 1, column 4)`},
		{"select=a::text $$", `"failed to parse select parameter (a::text $$)" (line 1, column 9)`},
		{"select=a::$1", `"failed to parse select parameter (a::$1)" (line 1, column 4)`},
		{"select=a(b", `"failed to parse select parameter (a(b)" (line 1, column 4)`},
		{"or=(id.eq.1)x", `"failed to parse logic tree ((id.eq.1)x)" (line 1, column 12)`},
		{"order=a.desc.x", `"failed to parse order (a.desc.x)" (line 1, column 7)`},
		{"on_conflict=a(", `"failed to parse on_conflict parameter (a()" (line 1, column 2)`},
	} {
		_, err := ReadQuery(c.raw, false)
		var parsed *Error
		if !errors.As(err, &parsed) || parsed.Code != "PGRST100" && parsed.Code != "22003" {
			t.Errorf("%s: %v", c.raw, err)
			continue
		}
		if parsed.Message != c.message {
			t.Errorf("%s:\n got %s (%s)\nwant %s", c.raw, parsed.Message, parsed.Details, c.message)
		}
	}
}

func TestReadPage(t *testing.T) {
	t.Parallel()
	num := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		limit, offset *int64
		header, want  string
	}{
		{nil, nil, "", "0 all"},
		{nil, nil, "0-9", "0 10"},
		{nil, nil, "5-", "5 all"},
		{nil, nil, "bytes=0-9", "0 all"},
		{nil, nil, "-5", "0 all"},
		{nil, nil, "9-5", "refused"},
		{num(3), num(2), "", "2 3"},
		{num(3), num(2), "3-9", "3 2"},
		{num(3), num(2), "0-2", "2 1"},
		{num(3), num(2), "7-9", "refused"},
		{num(0), nil, "", "0 0"},
		{num(0), nil, "0-5", "0 0"},
		{num(-1), nil, "", "refused"},
		{nil, num(-1), "", "-1 all"},
		{num(1 << 62), num(1 << 62), "0-9223372036854775806", "4611686018427387904 4611686018427387904"},
		{nil, nil, "0-99999999999999999999", "0 all"},
	} {
		page, err := ReadPage(Range{Limit: c.limit, Offset: c.offset}, c.header)
		got := fmt.Sprintf("%d all", page.Offset)
		if page.Limit != nil {
			got = fmt.Sprintf("%d %d", page.Offset, *page.Limit)
		}
		if err != nil {
			got = "refused"
		}
		if got != c.want {
			t.Errorf("limit %v offset %v header %q: got %s, want %s", c.limit, c.offset, c.header, got, c.want)
		}
	}
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body, want string
		mixed      bool
	}{
		{`{"a":1,"b":{"c":2}}`, "false [a b] 1", false},
		{` [ {"a":1} , {"a":2} ] `, "true [a] 2", false},
		{`[{"a":1,"b":1},{"b":2,"a":1}]`, "true [a b] 2", false},
		{`[{"a":1},{"b":2}]`, "All object keys must match", false},
		{`[{"a":1},{"b":2}]`, "true [a] 2", true},
		{`[{"a":1},{}]`, "All object keys must match", false},
		{`[1]`, "All object keys must match", false},
		{`[]`, "true [] 0", false},
		{`"x"`, "true [] 0", false},
		{`{"\u0061":1,"a":2}`, "false [a] 1", false},
		{`{"\u0000":1}`, "Empty or invalid json", false},
		{``, "Empty or invalid json", false},
		{`{"a":1}x`, "Empty or invalid json", false},
		{`{"a":01}`, "Empty or invalid json", false},
		{"{\"a\":\"\n\"}", "Empty or invalid json", false},
		{"\xef\xbb\xbf{}", "Empty or invalid json", false},
		{"{\"a\":\"\xff\"}", "Empty or invalid json", false},
		{`{"a":1e401}`, "Empty or invalid json", false},
		{`{"a":1e99999999999999999999}`, "Empty or invalid json", false},
		{`{"a":1e30}`, "false [a] 1", false},
		{strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64), "false [a] 1", false},
		{strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), "Empty or invalid json", false},
		{strings.Repeat(`[`, 100000), "Empty or invalid json", false},
	} {
		body, err := ReadBody([]byte(c.body), c.mixed)
		got := ""
		var parsed *Error
		if errors.As(err, &parsed) {
			got = parsed.Message
		} else {
			got = fmt.Sprint(body.Array, body.Keys, body.Rows)
		}
		if got != c.want {
			t.Errorf("%.60s: got %s, want %s", c.body, got, c.want)
		}
	}
}

func TestReadAccept(t *testing.T) {
	t.Parallel()
	var got []string
	for _, m := range ReadAccept([]string{"*/*;q=0.5, text/csv, Application/JSON;x=1;q=0.9", "a/b;q=0, application/vnd.pgrst.object;nulls=stripped"}) {
		got = append(got, m.Type)
	}
	want := []string{"application/vnd.pgrst.object", "text/csv", "application/json", "*/*"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadPrefer(t *testing.T) {
	t.Parallel()
	p := ReadPrefer([]string{"return=minimal, return=representation,count=exact", "foo, tx=never,max-affected=3 , max-affected=x,timezone=Asia/Tokyo"})
	if p.Return != "minimal" || p.Count != "exact" || p.Max == nil || *p.Max != 3 || p.Timezone != "Asia/Tokyo" || !slices.Equal(p.Unknown, []string{"foo", "tx=never", "max-affected=x"}) {
		t.Errorf("got %+v", p)
	}
}

// quick fails a fuzz input that takes long: a request must cost what its size says.
func quick(t *testing.T, start time.Time, size int) {
	t.Helper()
	if took := time.Since(start); took > time.Second+time.Duration(size)*10*time.Microsecond {
		t.Errorf("%d bytes took %v", size, took)
	}
}

func FuzzReadQuery(f *testing.F) {
	for _, seed := range []string{
		"select=*,a:b->c->>d::int,e!f!inner(g,...h(*)),count(),x.sum()::text", `"a b".c->d=not.in.("x, y",z)`, "or=(a.eq.1,not.and(b.is.null,c.like(any).{x,y}))",
		"order=a.desc.nullslast,b(c)&limit=1&offset=-2&x.limit=3", "columns=\"a\",b&on_conflict=c", "a=fts(english).b", "a=%zz%ff;b=+", "select=a::text $$",
	} {
		f.Add(seed)
		f.Add(url.QueryEscape(seed))
	}
	f.Fuzz(func(t *testing.T, raw string) {
		defer quick(t, time.Now(), len(raw))
		for _, function := range []bool{false, true} {
			q, err := ReadQuery(raw, function)
			var parsed *Error
			if err != nil && (!errors.As(err, &parsed) || parsed.Code == "" || !utf8.ValidString(parsed.Message)) {
				t.Fatalf("%q: %v", raw, err)
			}
			if err == nil {
				checkItems(t, q.Select)
			}
		}
	})
}

// checkItems looks for casts that could be more than a type's name.
func checkItems(t *testing.T, items []Item) {
	t.Helper()
	for _, it := range items {
		for _, cast := range []string{it.Cast, it.AggCast} {
			if cast != "" && (!ValidCast(cast) || strings.ContainsAny(cast, "'\"();,.-*/\\[]{}:=") || strings.HasPrefix(cast, "$") || strings.Contains(cast, " $")) {
				t.Fatalf("cast %q", cast)
			}
		}
		checkItems(t, it.Items)
	}
}

func FuzzReadBody(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `[{"a":1},{"a":null}]`, `[1e5,"\u00e9",{}]`, `[[[[`, `{"a":{"b":[1,{"c":"d"}]}}`, `"\`, `-0.1E+2`} {
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, mixed bool) {
		defer quick(t, time.Now(), len(raw))
		body, err := ReadBody(raw, mixed)
		if err != nil {
			return
		}
		if !Text(string(body.Raw)) {
			t.Fatalf("%q is no text", raw)
		}
		var names []string
		for _, key := range body.Keys {
			if slices.Contains(names, key) || !Text(key) {
				t.Fatalf("keys %q of %q", body.Keys, raw)
			}
			names = append(names, key)
		}
	})
}

// FuzzRows makes sure that what becomes of CSV and forms is the JSON that it says it is.
func FuzzRows(f *testing.F) {
	for _, seed := range []string{"a,b\n1,NULL\n\"x\"\"y\",\"NULL\"\r\n", "\ufeffa\n", "a=1&b=x+y&a=2", "\"", ",\n,", "a\n\n1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		defer quick(t, time.Now(), len(raw))
		same := func(made *Body, err error) {
			if err != nil {
				return
			}
			read, err := ReadBody(made.Raw, true)
			if err != nil || read.Rows != made.Rows || read.Array != made.Array {
				t.Fatalf("%q made %q: %v", raw, made.Raw, err)
			}
			if made.Rows == 0 {
				return
			}
			keys := slices.Compact(slices.Sorted(slices.Values(made.Keys)))
			if got := slices.Sorted(slices.Values(read.Keys)); !slices.Equal(got, keys) {
				t.Fatalf("%q has the keys %q, and says %q", made.Raw, got, keys)
			}
		}
		same(ReadCSV(raw))
		_, form, err := ReadForm(raw)
		same(form, err)
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("return=minimal, max-affected=3", "application/json;q=0.5, */*", "0-9")
	f.Fuzz(func(t *testing.T, prefer, accept, header string) {
		defer quick(t, time.Now(), len(prefer)+len(accept))
		ReadPrefer([]string{prefer})
		for _, m := range ReadAccept([]string{accept}) {
			if m.Type != strings.ToLower(m.Type) {
				t.Fatalf("%q", m.Type)
			}
		}
		if page, err := ReadPage(Range{}, header); err == nil && (page.Offset < 0 || page.Limit != nil && *page.Limit < 1) {
			t.Fatalf("%q gives %+v", header, page)
		}
	})
}
