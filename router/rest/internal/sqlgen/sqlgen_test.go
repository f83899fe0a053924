package sqlgen_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// words are all that a statement may say outside of quotes, besides casts.
var words = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`
		SELECT NULL bigint json text count coalesce json_agg json_strip_nulls nullif current_setting true FROM WHERE AND OR NOT IS TRUE FALSE UNKNOWN
		ANY ALL LIKE ILIKE DISTINCT ORDER BY DESC NULLS FIRST LAST LIMIT OFFSET AS CAST to_jsonb int to_tsvector to_tsquery plainto_tsquery phraseto_tsquery
		websearch_to_tsquery WITH _source INSERT INTO UPDATE SET DELETE RETURNING DEFAULT VALUES _t _body _element json_build_array json_array_elements
		json_to_record json_to_recordset jsonb jsonb_to_record jsonb_to_recordset jsonb_agg jsonb_array_elements jsonb_build_object false
		INNER LEFT JOIN LATERAL ON EXISTS row_to_json _r _e0 _e1 j set_config ON CONFLICT DO NOTHING EXCLUDED MATERIALIZED LATERAL VARIADIC v _args
		sum avg min max GROUP ROW n true o0 o1
		pgrst_scalar EXPLAIN FORMAT JSON TEXT VERBOSE string_agg json_object_keys substring length _k _c
		integer uuid tsvector numeric catalog_default catalog_write catalog_read catalog_text unnest _v`) {
		m[w] = true
	}
	return m
}()

var (
	quoted        = regexp.MustCompile(`"(?:[^"]|"")*"|E'(?:[^'\\]|\\.)*'|'(?:[^']|'')*'`)
	parameter     = regexp.MustCompile(`\$[0-9]+`)
	word          = regexp.MustCompile(`[\pL_][\pL\pN_$]*`)
	allowedSymbol = regexp.MustCompile(`^[ .,()*=<>!@&|~:0-9+-]*$`)
)

// foreignText is what of a statement's text comes from elsewhere than constants, quoting and the catalog; "" when
// nothing does.
func foreignText(sql string) string {
	rest := quoted.ReplaceAllString(sql, "1")
	rest = strings.NewReplacer("::text[]", "", "(array_agg(_t.pgrst_scalar))[1]", "1").Replace(rest)
	rest, types := uncast(rest)
	for _, typ := range types {
		if !parse.ValidCast(typ) {
			return typ
		}
	}
	rest = parameter.ReplaceAllString(rest, "1")
	for _, w := range word.FindAllString(rest, -1) {
		if !words[w] {
			return w
		}
	}
	if rest = word.ReplaceAllString(rest, ""); !allowedSymbol.MatchString(rest) {
		return rest
	}
	return ""
}

// uncast takes the casts out of a text without quotes: what is cast stays, the types are given apart.
func uncast(sql string) (string, []string) {
	var types []string
	for {
		start := strings.LastIndex(sql, "CAST(") // the last one holds no other
		if start < 0 {
			return sql, types
		}
		depth, as := 0, -1
		for i := start + len("CAST"); i < len(sql); i++ {
			switch {
			case sql[i] == '(':
				depth++
			case sql[i] == ')':
				depth--
			case depth == 1 && as < 0 && strings.HasPrefix(sql[i:], " AS "):
				as = i
			}
			if depth == 0 && as > 0 {
				types = append(types, sql[as+len(" AS "):i])
				sql = sql[:start] + sql[start+len("CAST"):as] + sql[i:]
				break
			}
			if depth == 0 {
				return "a cast without AS", types
			}
		}
	}
}

func relation(scoped bool) *schema.Relation {
	r := &schema.Relation{
		Name: schema.Name{Schema: "public", Name: `t"t`}, Scoped: scoped, Key: []string{"tenant_id", "id"},
		Columns: []schema.Column{
			{Name: "tenant_id", Type: "uuid", Base: "uuid", Default: "catalog_default()"},
			{Name: "id", Type: "integer", Base: "int4", Default: "catalog_default"},
			{Name: `o'd"d\`, Type: "text", Base: "text", Default: "'it''s'"},
			{Name: "doc", Type: "jsonb", Base: "jsonb"},
			{Name: "words", Type: "tsvector", Base: "tsvector"},
			{Name: "color", Type: "integer", Base: "int4", Casts: schema.Casts{ToJSON: "catalog_write", FromJSON: "catalog_read", FromText: "catalog_text"}},
		},
	}
	far := &schema.Relation{Name: schema.Name{Schema: "public", Name: "far"}, Scoped: scoped, Key: []string{"tenant_id", "id"}, Columns: r.Columns}
	join := func(name string, from, to *schema.Relation) {
		key := &schema.ForeignKey{Constraint: name, From: from, To: to, Columns: []string{"tenant_id", name}, Targets: []string{"tenant_id", "id"}}
		from.ForeignKeys = append(from.ForeignKeys, key)
		to.Referrers = append(to.Referrers, key)
	}
	via := &schema.Relation{Name: schema.Name{Schema: "public", Name: `v"v`}, Scoped: scoped, Key: []string{"tenant_id", "one", "other"}, Columns: r.Columns}
	join(`to"far`, r, far)
	join("from_far", far, r)
	join("one", via, r)
	join("other", via, far)
	r.Computed = []*schema.Computed{{Function: schema.Name{Schema: "public", Name: `made"up`}, To: far, ToOne: true}}
	return r
}

const tenant = "0199a000-0000-7000-8000-00000000000a"

// statements are all that a query and a body can become.
func statements(raw string, body []byte) []sqlgen.Statement {
	q, err := parse.ReadQuery(raw, false)
	if err != nil {
		return nil
	}
	var list []sqlgen.Statement
	for _, scoped := range []bool{true, false} {
		r := relation(scoped)
		for _, form := range []sqlgen.Form{{Body: true, Count: true}, {Single: true, Body: true, Strip: true}, {Body: true, CSV: true, Count: true, CountAtMost: 5}, {}} {
			if read, err := plan.ReadRelation(&schema.Schema{}, r, q, parse.Page{Offset: 3}, plan.Limits{MaxRows: 10}); err == nil {
				list = append(list, sqlgen.Read(read, form, tenant), sqlgen.Expected(read, tenant), sqlgen.Plan(sqlgen.Read(read, form, tenant), form.Single, []string{"verbose", raw}))
				list = append(list, calls(read, form, raw, body)...)
			}
			b, err := parse.ReadBody(body, q.Columns != nil)
			for _, verb := range []plan.Verb{plan.Insert, plan.Update, plan.Delete} {
				req := plan.WriteRequest{
					Verb: verb, Query: q, Body: b, Representation: form.Body, Location: !form.Body, Defaults: form.Count,
					Resolution: []string{"merge-duplicates", "ignore-duplicates", ""}[len(list)%3],
				}
				if err != nil && verb != plan.Delete {
					continue
				}
				if write, err := plan.WriteRelation(&schema.Schema{}, r, req); err == nil {
					list = append(list, sqlgen.Write(write, form, tenant))
				}
			}
		}
	}
	return list
}

// calls are statements of a function whose result the query reads.
func calls(read *plan.Read, form sqlgen.Form, raw string, body []byte) []sqlgen.Statement {
	read.Source = true
	f := &schema.Function{Name: schema.Name{Schema: "public", Name: `f"f`}, Returns: read.Relation, Set: true}
	c := &plan.Call{Function: f, Read: read, Args: []plan.Given{
		{Arg: schema.Arg{Name: `a"a`, Type: "integer"}, Value: raw},
		{Arg: schema.Arg{Name: "b", Type: "numeric", Variadic: true}, Value: raw, Values: []string{raw, raw}},
	}}
	list := []sqlgen.Statement{sqlgen.Call(c, form, tenant)}
	c.Body = &parse.Body{Raw: body, Array: form.Count}
	list = append(list, sqlgen.Call(c, form, tenant))
	f.Returns = nil
	return append(list, sqlgen.Call(c, form, tenant))
}

// check holds a statement to its rules: no foreign text, as many parameters as values, the fence where it belongs.
func check(t *testing.T, raw string, s sqlgen.Statement) {
	t.Helper()
	if found := foreignText(s.SQL); found != "" {
		t.Fatalf("%q writes %q into %s", raw, found, s.SQL)
	}
	bare, _ := uncast(quoted.ReplaceAllString(s.SQL, "")) // a type may be called zq$1
	if n := len(parameter.FindAllString(bare, -1)); n != len(s.Args) || n > 0 && !strings.Contains(bare, fmt.Sprintf("$%d", n)) {
		t.Fatalf("%q has %d parameters and %d values: %s", raw, n, len(s.Args), s.SQL)
	}
}

// TestStatements_hold_no_input writes random requests whose every piece tries to get out of its quotes.
func TestStatements_hold_no_input(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	evil := []string{`"`, `'`, `''`, `$$`, `$1`, `;`, `--`, `/*`, `\`, `)`, `(`, ` zq `, `,`, `zq`, "é", `.`, `::`, `->`, `->>`, `{`, `}`, `*`, "\t", "0", "drop"}
	text := func() string {
		var b strings.Builder
		for range 1 + random.IntN(6) {
			b.WriteString(evil[random.IntN(len(evil))])
		}
		return b.String()
	}
	quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	name := func() string {
		return []string{"id", "doc", "words", "tenant_id", "color", quote(text()), quote(`o'd"d\`), "zq"}[random.IntN(8)]
	}
	field := func() string {
		return name() + []string{"", "->" + quote(text()), "->>" + text(), "->0->>" + quote(text())}[random.IntN(4)]
	}
	operation := func() string {
		return []string{
			"eq." + text(), "not.in.(" + quote(text()) + "," + text() + ")", "like(any)." + text(), "is.null", "fts(" + text() + ")." + text(),
			"ov." + text(), "isdistinct." + text(), "ilike." + text(),
		}[random.IntN(8)]
	}
	made, embedded, joined := 0, 0, 0
	for range 800 {
		var pairs []string
		add := func(key, value string) { pairs = append(pairs, url.QueryEscape(key)+"="+url.QueryEscape(value)) }
		var items []string
		for range random.IntN(4) {
			item := field()
			if random.IntN(3) == 0 {
				item = name() + ":" + item
			}
			if random.IntN(3) == 0 {
				item += "::" + []string{"text", "double precision", text(), "zq$"}[random.IntN(4)]
			}
			if random.IntN(4) == 0 {
				item += []string{".sum()", ".count()", ".max()::text", ".avg()::" + text()}[random.IntN(4)]
			}
			items = append(items, item)
		}
		if random.IntN(2) == 0 {
			alias := quote(text())
			target := []string{quote(`to"far`), "from_far", `far!"v\"v"`, quote(`made"up`), quote(`v"v`)}[random.IntN(5)]
			inner := []string{"", "*", field(), name() + ".max()", alias + ":" + field() + "," + name(), "..." + quote(`to"far`) + "(" + name() + ")"}[random.IntN(6)]
			if random.IntN(3) == 0 {
				items = append(items, "..."+target+"("+inner+")")
				alias, _, _ = strings.Cut(target, "!")
			} else {
				items = append(items, alias+":"+target+[]string{"", "!inner", "!left"}[random.IntN(3)]+"("+inner+")")
			}
			if random.IntN(2) == 0 {
				add(alias+"."+field(), operation())
			}
			if random.IntN(2) == 0 {
				add(alias, []string{"is.null", "not.is.null"}[random.IntN(2)])
			}
			if random.IntN(2) == 0 {
				add("order", alias+"("+field()+").desc,"+name())
			}
			embedded++
		}
		if len(items) > 0 {
			add("select", strings.Join(items, ","))
		}
		for range random.IntN(3) {
			add(field(), operation())
		}
		if random.IntN(3) == 0 {
			add("or", "("+field()+"."+operation()+",and("+field()+"."+operation()+"))")
		}
		if random.IntN(3) == 0 {
			add("order", field()+[]string{"", ".desc", ".asc.nullslast", "." + text()}[random.IntN(4)])
		}
		if random.IntN(3) == 0 {
			add("columns", quote(`o'd"d\`)+",id")
		}
		raw := strings.Join(pairs, "&")
		body := fmt.Sprintf(`[{"id": 1, "o'd\"d\\": %q}]`, "zq")
		for _, s := range statements(raw, []byte(body)) {
			made++
			if strings.Contains(s.SQL, "LATERAL (SELECT") {
				joined++
			}
			check(t, raw, s)
		}
	}
	if embedded > 0 && joined < embedded {
		t.Fatalf("seed %d: %d requests with embeds made only %d statements with joins", seed, embedded, joined)
	}
	if made < 2000 {
		t.Fatalf("seed %d: only %d statements came of it", seed, made)
	}
}

// TestForeignText makes sure that the property can fail.
func TestForeignText(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{
		`SELECT "a" FROM zq`, `SELECT CAST("a" AS text $$) FROM "b"`, `SELECT "a" FROM "b" WHERE "c" = 'x' OR 1=1; drop`, `SELECT "a""b" zq`, `SELECT 1 -- {`,
	} {
		if foreignText(sql) == "" {
			t.Errorf("nothing is found in %s", sql)
		}
	}
}

func FuzzStatements(f *testing.F) {
	f.Add(`select=*,"a""b"::text,doc->x->>0&id=in.(1,2)&or=(id.eq.1,words.fts.x)&order=id.desc`, []byte(`[{"id":1}]`))
	f.Add(`columns=id&select=id::double precision`, []byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, raw string, body []byte) {
		for _, s := range statements(raw, body) {
			check(t, raw, s)
		}
	})
}

// TestFence looks for the tenant's predicate in everything that reads, updates or deletes.
func TestFence(t *testing.T) {
	t.Parallel()
	q, err := parse.ReadQuery("id=eq.1&or=(id.eq.2,id.eq.3)", false)
	if err != nil {
		t.Fatal(err)
	}
	const fence = `"tenant_id" = $`
	for _, scoped := range []bool{true, false} {
		r := relation(scoped)
		read, err := plan.ReadRelation(&schema.Schema{}, r, q, parse.Page{Offset: 1}, plan.Limits{MaxRows: 5})
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if scoped {
			want = 2 // the rows and their count
		}
		if got := strings.Count(sqlgen.Read(read, sqlgen.Form{Count: true}, tenant).SQL, fence); got != want {
			t.Errorf("scoped %v: a counted read has %d predicates, want %d", scoped, got, want)
		}
		if got := strings.Count(sqlgen.Read(read, sqlgen.Form{Count: true}, "").SQL, fence); got != 0 {
			t.Errorf("without a tenant a read has %d predicates", got)
		}
		with, err := parse.ReadQuery(`select=id,"to\"far"(id),many:far!"v\"v"(id),...from_far(id),"made\"up"(id)&many=is.null`, false)
		if err != nil {
			t.Fatal(err)
		}
		if read, err = plan.ReadRelation(&schema.Schema{}, r, with, parse.Page{Offset: 1}, plan.Limits{}); err != nil {
			t.Fatal(err)
		}
		if scoped {
			want = 6 // the rows, four embeds, a junction
		}
		if got := strings.Count(sqlgen.Read(read, sqlgen.Form{Body: true}, tenant).SQL, fence); got != want {
			t.Errorf("scoped %v: a read with embeds has %d predicates, want %d", scoped, got, want)
		}
		if scoped {
			want = 9 // and again what the count looks for: the rows, the embed, its junction
		}
		if got := strings.Count(sqlgen.Read(read, sqlgen.Form{Body: true, Count: true}, tenant).SQL, fence); got != want {
			t.Errorf("scoped %v: a counted read with embeds has %d predicates, want %d", scoped, got, want)
		}
		body, err := parse.ReadBody([]byte(`{"id":1}`), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, verb := range []plan.Verb{plan.Update, plan.Delete} {
			write, err := plan.WriteRelation(&schema.Schema{}, r, plan.WriteRequest{Verb: verb, Query: q, Body: body})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(sqlgen.Write(write, sqlgen.Form{}, tenant).SQL, fence); got != scoped {
				t.Errorf("scoped %v, verb %d: predicate %v", scoped, verb, got)
			}
		}
	}
}
