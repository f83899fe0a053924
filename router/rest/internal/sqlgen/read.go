package sqlgen

import (
	"slices"
	"strconv"
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// Form is what a statement makes of its rows.
type Form struct {
	Body   bool // a body at all: not for HEAD, not without representation
	Single bool // the first row instead of an array
	Strip  bool // without nulls
	Count  bool // all rows, not only the page
	Values bool // the column pgrst_scalar of each row instead of the row
	CSV    bool // lines instead of JSON
	Geo    bool // a collection of PostGIS's features

	Handler *schema.Handler // makes the answer; nil for JSON

	CountAtMost int64 // stops counting there; zero counts on
}

// Every statement answers one row of text in these columns.
const (
	Total    = iota // all rows that match; NULL when not counted
	Rows            // rows in the answer
	Body            // JSON; NULL without
	Headers         // response.headers as set by the database; NULL when not
	Status          // response.status, likewise
	Inserted        // rows that an upsert inserted; NULL for all else
	Location        // JSON array of the key's values; NULL without
	Planned         // the plan of another statement, which says how many rows match; NULL when not asked
	Columns         // how many these are
)

// Read writes the statement of a read. The tenant's predicate is added to every scoped relation; "" adds none.
func Read(r *plan.Read, form Form, tenant string) Statement {
	w := newWriter(tenant)
	w.rows(r, form)
	return w.statement()
}

// Expected writes the question how many rows PostgreSQL expects to match.
func Expected(r *plan.Read, tenant string) Statement {
	w := newWriter(tenant)
	w.lit("EXPLAIN (FORMAT JSON) SELECT FROM ")
	w.matching(r)
	return w.statement()
}

// PlanOptions are what EXPLAIN may be told, in the order in which they are told.
var PlanOptions = []string{"analyze", "verbose", "settings", "buffers", "wal"}

// Plan writes the question how PostgreSQL would run a statement. It answers lines of text.
func Plan(s Statement, json bool, options []string) Statement {
	w := &writer{}
	w.lit("EXPLAIN (FORMAT ")
	if json {
		w.lit("JSON")
	} else {
		w.lit("TEXT")
	}
	for _, known := range PlanOptions {
		if slices.Contains(options, known) {
			w.sql.WriteString(", " + strings.ToUpper(known))
		}
	}
	w.lit(") ")
	return Statement{SQL: w.sql.String() + s.SQL, Args: s.Args}
}

// rows writes the one row that every statement answers, over the rows of a read.
func (w *writer) rows(r *plan.Read, form Form) {
	w.lit("SELECT ")
	switch {
	case !form.Count:
		w.lit("NULL::bigint")
	case r.Limit == nil && r.Offset == 0: // the page is all, inner embeds included
		w.lit("count(*)")
	case form.CountAtMost > 0:
		w.lit("(SELECT count(*) FROM (SELECT FROM ")
		w.matching(r)
		w.lit(" LIMIT ")
		w.number(form.CountAtMost)
		w.lit(") _c)")
	default:
		w.lit("(SELECT count(*) FROM ")
		w.matching(r)
		w.lit(")")
	}
	w.result(form)
	w.lit(", NULL::int, NULL::text FROM (")
	w.read(r, nil)
	w.lit(") _t")
}

// matching writes what all rows of a read come from, without its embeds.
func (w *writer) matching(r *plan.Read) {
	w.unjoined = true
	w.from(r)
	w.exists(r, w.where(r, nil))
	w.unjoined = false
}

// result writes the columns from Rows to Status over a row source _t.
func (w *writer) result(form Form) {
	w.lit(", count(*), ")
	agg := func() {
		if form.Strip {
			w.lit("json_strip_nulls(")
		}
		if form.Values {
			w.lit("json_agg(_t.pgrst_scalar)")
		} else {
			w.lit("json_agg(_t.*)")
		}
		if form.Strip {
			w.lit(")")
		}
	}
	switch {
	case !form.Body:
		w.lit("NULL::json")
	case form.Handler != nil && form.Handler.Value:
		w.lit("(array_agg(_t.pgrst_scalar))[1]")
	case form.Handler != nil:
		w.qualified(form.Handler.Function.Schema, form.Handler.Function.Name)
		w.lit("(_t")
		if rows := form.Handler.Rows; rows != nil {
			w.lit("::")
			w.relation(rows)
		}
		w.lit(")")
	case form.CSV: // a header of the first row's keys, then rows as composites without parentheses
		w.lit("coalesce((SELECT string_agg(_k, ',') FROM json_object_keys(json_agg(_t.*)->0) _k), '') || E'\\n' || " +
			"coalesce(string_agg(substring(_t::text, 2, length(_t::text) - 2), E'\\n'), '')")
	case form.Geo:
		w.lit("json_build_object('type', 'FeatureCollection', 'features', coalesce(json_agg(st_asgeojson(_t.*)::json), '[]'))")
	case form.Single:
		w.lit("coalesce(")
		agg()
		w.lit("->0, 'null')")
	default:
		w.lit("coalesce(")
		agg()
		w.lit(", '[]')")
	}
	w.lit(", nullif(current_setting('response.headers', true), ''), nullif(current_setting('response.status', true), '')")
}

// read writes the rows of one level; of is the embed that it belongs to, nil for the root.
func (w *writer) read(r *plan.Read, of *plan.Embed) {
	w.lit("SELECT")
	w.columns(r)
	w.rest(r, of)
}

// rest writes all of a level behind its columns.
func (w *writer) rest(r *plan.Read, of *plan.Embed) {
	if w.pageFirst(r, of) {
		w.laterals(r, true)
		w.order(r.Order)
		return
	}
	w.lit(" FROM ")
	w.from(r)
	w.through(of)
	w.laterals(r, false)
	w.where(r, of)
	w.groups(r)
	w.order(r.Order)
	w.page(r)
}

func (w *writer) page(r *plan.Read) {
	if r.Limit != nil {
		w.lit(" LIMIT ")
		w.number(*r.Limit)
	}
	if r.Offset != 0 {
		w.lit(" OFFSET ")
		w.number(r.Offset)
	}
}

func (w *writer) from(r *plan.Read) {
	if r.Source {
		w.lit("_source AS ")
		w.ident(r.Alias)
		return
	}
	if r.Rows != nil {
		w.invokeRows(r.Rows)
		w.lit(" AS ")
		w.ident(r.Alias)
		return
	}
	w.relation(r.Relation)
	if r.Alias != r.Relation.Name.Name {
		w.lit(" AS ")
		w.ident(r.Alias)
	}
}

func (w *writer) relation(r *schema.Relation) { w.qualified(r.Schema, r.Name.Name) }

func (w *writer) columns(r *plan.Read) {
	for i, c := range r.Columns {
		if i > 0 {
			w.lit(",")
		}
		w.lit(" ")
		switch {
		case c.Star:
			w.ident(c.Of)
			w.lit(".*")
			continue
		case c.Agg != "":
			w.aggregate(c)
		default:
			w.value(c)
		}
		if c.As != "" {
			w.lit(" AS ")
			w.ident(c.As)
		}
	}
}

var aggregates = map[string]constant{"sum": "sum(", "avg": "avg(", "min": "min(", "max": "max(", "count": "count("}

func (w *writer) aggregate(c plan.Column) {
	if c.AggCast != "" {
		w.lit("CAST(")
	}
	w.lit(aggregates[c.Agg])
	if c.Name == "" && c.Lifted == "" {
		w.lit("*")
	} else {
		w.value(c)
	}
	w.lit(")")
	if c.AggCast != "" {
		w.lit(" AS ")
		w.cast(c.AggCast)
		w.lit(")")
	}
}

// value writes a column but for its aggregate and its name.
func (w *writer) value(c plan.Column) {
	switch {
	case c.Lifted != "":
		w.embedAlias(c.Embed)
		w.lit(".")
		w.ident(c.Lifted)
	case c.Embed != nil:
		w.related(c.Embed)
	case c.Name == "": // a row that a level above counts
		w.lit("1")
	case c.Cast != "":
		w.lit("CAST(")
		w.written(c)
		w.lit(" AS ")
		w.cast(c.Cast)
		w.lit(")")
	default:
		w.written(c)
	}
}

// written is an operand as its domain has it written.
func (w *writer) written(c plan.Column) {
	if c.Write == "" {
		w.operand(c.Operand)
		return
	}
	w.catalog(c.Write)
	w.lit("(")
	w.operand(c.Operand)
	w.lit(")")
}

// groups groups by all columns that are no aggregates. They go by their place: an expression with parameters is
// never the same as its repetition, and a name may be an alias as well as a column.
func (w *writer) groups(r *plan.Read) {
	if !r.Grouped {
		return
	}
	next := w.conjunctionOf(" GROUP BY ", ", ")
	for i, c := range r.Columns {
		if c.Agg == "" {
			next()
			w.sql.WriteString(strconv.Itoa(i + 1))
		}
	}
}

func (w *writer) operand(o plan.Operand) {
	if len(o.Path) == 0 || o.JSON {
		w.qualified(o.Of, o.Name)
	} else {
		w.lit("to_jsonb(")
		w.qualified(o.Of, o.Name)
		w.lit(")")
	}
	for _, step := range o.Path {
		if step.Text {
			w.lit("->>")
		} else {
			w.lit("->")
		}
		w.text(step.Key)
		if step.Index {
			w.lit("::int")
		}
	}
}

// where writes the conditions of a level: what joins it to its parent, the tenant's predicate, which is the second
// fence beside row-level security, and the filters. It gives what joins further ones.
func (w *writer) where(r *plan.Read, of *plan.Embed) (and func()) {
	and = w.conjunction(" WHERE ")
	if of != nil {
		w.joined(of, and)
	}
	if !r.Source { // what a function answers it has read itself
		w.fence(r.Relation, r.Alias, and)
	}
	w.conds(r.Where, and)
	return and
}

// conjunction gives a function that writes first what opens a list of conditions, then what joins them.
func (w *writer) conjunction(open constant) func() { return w.conjunctionOf(open, " AND ") }

func (w *writer) conjunctionOf(open, between constant) func() {
	next := open
	return func() {
		w.lit(next)
		next = between
	}
}

func (w *writer) fence(r *schema.Relation, alias string, and func()) {
	if r.Scoped && w.tenant != "" {
		and()
		w.qualified(alias, schema.TenantColumn)
		w.lit(" = ")
		w.text(w.tenant)
	}
}

func (w *writer) conds(conds []plan.Cond, and func()) {
	for _, c := range conds {
		and()
		w.cond(c)
	}
}

func (w *writer) cond(c plan.Cond) {
	if c.Not {
		w.lit("NOT ")
	}
	w.lit("(")
	defer w.lit(")")
	if c.Embed != nil {
		w.tested(c)
		return
	}
	if c.Group {
		for i, m := range c.Members {
			switch {
			case i > 0 && c.Or:
				w.lit(" OR ")
			case i > 0:
				w.lit(" AND ")
			}
			w.cond(m)
		}
		return
	}
	if query, ok := searches[c.Op]; ok {
		w.search(c, query)
		return
	}
	w.operand(c.Left)
	switch c.Op {
	case "in":
		w.lit(" = ANY(")
		if c.Left.FromText != "" {
			w.lit("SELECT ")
			w.catalog(c.Left.FromText)
			w.lit("(_v) FROM unnest(")
			w.arg(arrayLiteral(c.List))
			w.lit("::text[]) _v)")
			return
		}
		w.arg(arrayLiteral(c.List))
		w.lit(")")
		return
	case "is":
		w.lit(" IS ")
		w.lit(truths[c.Value])
		return
	}
	w.lit(comparisons[c.Op])
	value, pattern := c.Value, c.Op == "like" || c.Op == "ilike"
	if pattern {
		value = strings.ReplaceAll(value, "*", "%")
	}
	switch {
	case c.Quant == "any":
		w.lit("ANY(")
		w.text(value)
		w.lit(")")
	case c.Quant == "all":
		w.lit("ALL(")
		w.text(value)
		w.lit(")")
	case pattern: // is no value of the column's
		w.text(value)
	default:
		w.comparand(c.Left, value)
	}
}

// comparand writes a value that a column is compared with, read by the function of its domain.
func (w *writer) comparand(o plan.Operand, value string) {
	if o.FromText == "" {
		w.text(value)
		return
	}
	w.catalog(o.FromText)
	w.lit("(")
	w.text(value)
	w.lit(")")
}

var comparisons = map[string]constant{
	"eq": " = ", "neq": " <> ", "gt": " > ", "gte": " >= ", "lt": " < ", "lte": " <= ",
	"like": " LIKE ", "ilike": " ILIKE ", "match": " ~ ", "imatch": " ~* ",
	"cs": " @> ", "cd": " <@ ", "ov": " && ", "sl": " << ", "sr": " >> ", "nxr": " &< ", "nxl": " &> ", "adj": " -|- ",
	"isdistinct": " IS DISTINCT FROM ",
}

var truths = map[string]constant{"null": "NULL", "not_null": "NOT NULL", "true": "TRUE", "false": "FALSE", "unknown": "UNKNOWN"}

var searches = map[string]constant{"fts": "to_tsquery(", "plfts": "plainto_tsquery(", "phfts": "phraseto_tsquery(", "wfts": "websearch_to_tsquery("}

func (w *writer) search(c plan.Cond, query constant) {
	language := func() {
		if c.Lang != "" {
			w.text(c.Lang)
			w.lit(", ")
		}
	}
	if c.Left.Text && len(c.Left.Path) == 0 {
		w.operand(c.Left)
	} else {
		w.lit("to_tsvector(")
		language()
		w.operand(c.Left)
		w.lit(")")
	}
	w.lit(" @@ ")
	w.lit(query)
	language()
	w.text(c.Value)
	w.lit(")")
}

func (w *writer) order(terms []plan.Order) {
	for i, o := range terms {
		if i == 0 {
			w.lit(" ORDER BY ")
		} else {
			w.lit(", ")
		}
		switch {
		case o.Lifted != "":
			w.embedAlias(o.Embed)
			w.lit(".")
			w.ident(o.Lifted)
		case o.Embed != nil:
			w.embedAlias(o.Embed)
			w.lit(".")
			w.key(o.At)
		default:
			w.operand(o.Operand)
		}
		if o.Desc {
			w.lit(" DESC")
		}
		switch o.Nulls {
		case "first":
			w.lit(" NULLS FIRST")
		case "last":
			w.lit(" NULLS LAST")
		}
	}
}
