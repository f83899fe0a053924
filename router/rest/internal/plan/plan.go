// Package plan matches a request tree against a schema and says what is to be read or written.
//
// It is the only place that looks names up. A name that is no column may still be a computed field, which only
// PostgreSQL can tell; such names go on as identifiers to be quoted.
package plan

import (
	"fmt"
	"slices"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// Error is a request that does not fit the schema.
type Error struct {
	Code, Message, Details, Hint string

	List []Ambiguous // stands for Details where there are several ways
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// A Read is one level of rows: a relation, what to show of it, and which rows in which order.
type Read struct {
	Relation *schema.Relation
	Alias    string // what the statement calls it
	Source   bool   // the rows are a function's, not the relation's own
	Columns  []Column
	Embeds   []*Embed // related rows that the columns or the conditions need
	Where    []Cond
	Order    []Order
	Limit    *int64
	Offset   int64

	Rows    *Rows     // where the rows come from, when not from the relation itself
	Grouped bool      // there are aggregates: what is none makes the groups
	ByName  []Renamed // embeds that go by an alias but were called by their relation's name; the root's only
}

// Rows are what a function makes of a row.
type Rows struct {
	Function schema.Name
	Of       *Read // the level whose row it is
}

// A Renamed is an embed with an alias.
type Renamed struct{ Name, Alias string }

// An Operand is a column of a relation or a place inside a JSON column.
type Operand struct {
	Of   string // alias of the relation
	Name string
	Path []parse.Step
	JSON bool // json or jsonb below its domains: arrows apply directly
	Text bool // tsvector below its domains: searched as it is
	schema.Casts
}

// A Column is one column of the result.
type Column struct {
	Operand
	Star    bool
	Embed   *Embed     // the related rows; the operand is not used
	Lifted  string     // a column of the embed, which is spread
	Write   schema.SQL // the function that makes JSON of it
	Cast    string
	Agg     string // sum, avg, min, max, count; without an operand count of the rows
	AggCast string
	As      string // name in the result; "" is the operand's or aggregate's own
}

func (c Column) name() string {
	if c.As != "" {
		return c.As
	}
	return c.Name
}

// A Cond is a comparison, or and/or over other conditions.
type Cond struct {
	parse.Cond // Field is not used: Left stands for it
	Left       Operand
	Embed      *Embed // are there related rows? Nothing else counts then but None
	None       bool   // or are there none?
	Group      bool
	Or         bool
	Members    []Cond
}

// An Order is one term of an order.
type Order struct {
	Operand
	Embed  *Embed // the operand is its At-th order key, or what it lifts anyway
	At     int
	Lifted string // a column of the embed, which is spread
	Desc   bool
	Nulls  string
}

// Limits are what a request may not do and see.
type Limits struct {
	MaxRows      int64 // of reads and of each embed; zero is no limit
	NoAggregates bool
	// Seen gives what hints may name. It is asked when a hint is wanted; nil hides nothing.
	Seen func() schema.Visible
}

// relations are those of the names that may be seen.
func (l Limits) relations(of string, names []string) []string {
	if l.Seen == nil || len(names) == 0 {
		return names
	}
	seen := l.Seen().Relations
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !seen[schema.Name{Schema: of, Name: name}] })
}

func (l Limits) functions(of string, names []string) []string {
	if l.Seen == nil || len(names) == 0 {
		return names
	}
	seen := l.Seen().Functions
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !seen[schema.Name{Schema: of, Name: name}] })
}

// planner holds what all parts of one plan need.
type planner struct {
	schema *schema.Schema
	query  *parse.Query
	limits Limits
}

// ReadRelation plans GET and HEAD of a relation.
func ReadRelation(s *schema.Schema, r *schema.Relation, q *parse.Query, page parse.Page, limits Limits) (*Read, error) {
	p := planner{schema: s, query: q, limits: limits}
	read, err := p.read(r, true)
	if err != nil {
		return nil, err
	}
	read.Limit, read.Offset = p.capped(page.Limit), page.Offset
	return read, nil
}

func (p planner) capped(limit *int64) *int64 {
	if p.limits.MaxRows > 0 && (limit == nil || *limit > p.limits.MaxRows) {
		return &p.limits.MaxRows
	}
	return limit
}

// read plans the root with all below it; where says whether filters apply to the root itself.
func (p planner) read(r *schema.Relation, where bool) (*Read, error) {
	read, err := p.level(r, r.Name.Name, p.query.Select, nil)
	if err != nil {
		return nil, err
	}
	read.group()
	return read, p.attach(read, where)
}

// level plans what one level shows. Above are the aliases that its conditions may speak of.
func (p planner) level(r *schema.Relation, alias string, items []parse.Item, above []string) (*Read, error) {
	read := &Read{Relation: r, Alias: alias}
	for _, item := range items {
		columns, err := p.columns(read, item, above)
		if err != nil {
			return nil, err
		}
		read.Columns = append(read.Columns, columns...)
	}
	if items == nil {
		read.Columns = []Column{{Star: true, Operand: Operand{Of: alias}}}
	}
	if slices.ContainsFunc(r.Columns, func(c schema.Column) bool { return c.ToJSON != "" }) {
		read.expand()
	}
	return read, nil
}

// Volatile says whether reading calls functions of views that may do anything.
func (r *Read) Volatile() bool {
	return r.Relation.Volatile || slices.ContainsFunc(r.Embeds, func(e *Embed) bool { return e.Read.Volatile() })
}

// group notes whether a level has aggregates, those of its spreads included. What "*" stands for is then part of
// the groups, and so has to be said.
func (r *Read) group() {
	r.Grouped = slices.ContainsFunc(r.Columns, func(c Column) bool { return c.Agg != "" })
	if r.Grouped {
		r.expand()
		r.Unwritten() // groups need values that can be compared
	}
}

// Unwritten leaves the columns of this level as they are, for what is not JSON.
func (r *Read) Unwritten() {
	for i := range r.Columns {
		r.Columns[i].Write = ""
	}
}

// expand names what "*" stands for.
func (r *Read) expand() {
	var columns []Column
	for _, c := range r.Columns {
		if !c.Star {
			columns = append(columns, c)
			continue
		}
		for _, of := range r.Relation.Columns {
			columns = append(columns, r.plain(of.Name))
		}
	}
	r.Columns = columns
}

// plain is a column as it is, or as its domain has it written.
func (r *Read) plain(name string) Column {
	c := Column{Operand: r.operand(parse.Field{Name: name})}
	if c.Write = c.ToJSON; c.Write != "" {
		c.As = name
	}
	return c
}

func aggregated(items []parse.Item) bool {
	return slices.ContainsFunc(items, func(i parse.Item) bool { return i.Agg != "" || aggregated(i.Items) })
}

// attach hangs filters, logic, orders and ranges on the levels that they speak of.
func (p planner) attach(root *Read, where bool) error {
	for _, f := range p.query.Filters {
		read, err := root.level(f.Path)
		if err != nil {
			return err
		}
		if where || read != root {
			read.Where = append(read.Where, read.cond(f.Cond))
		}
	}
	for _, o := range p.query.Orders {
		read, err := root.level(o.Path)
		if err != nil {
			return err
		}
		if read.Order, err = read.order(o.Terms); err != nil {
			return err
		}
	}
	for _, r := range p.query.Ranges {
		read, err := root.level(r.Path)
		if err != nil {
			return err
		}
		if read == root {
			continue // its page is the request's
		}
		if r.Limit != nil {
			read.Limit = p.capped(r.Limit)
		}
		if r.Offset != nil {
			read.Offset = *r.Offset
		}
	}
	for _, l := range p.query.Logic {
		read, err := root.level(l.Path)
		if err != nil {
			return err
		}
		if where || read != root {
			read.Where = append(read.Where, read.tree(l.Tree))
		}
	}
	if p.limits.NoAggregates && aggregated(p.query.Select) {
		return &Error{Code: "PGRST123", Message: "Use of aggregate functions is not allowed"}
	}
	return nil
}

// level walks down the embeds of a path.
func (r *Read) level(path []string) (*Read, error) {
	read := r
	for _, name := range path {
		e := read.embed(name)
		if e == nil {
			return nil, notEmbedded(name)
		}
		if renamed := (Renamed{name, e.As}); e.As != "" && e.As != name && !slices.Contains(r.ByName, renamed) {
			r.ByName = append(r.ByName, renamed)
		}
		read = e.Read
	}
	return read, nil
}

// embed is the embed of that name, nil without one. It goes by its alias, else by its relation's name.
func (r *Read) embed(name string) *Embed {
	var found *Embed
	for _, e := range r.Embeds {
		switch {
		case e.As == name:
			return e
		case found == nil && (e.Target == name || e.Read.Relation.Name.Name == name):
			found = e
		}
	}
	return found
}

func notEmbedded(name string) *Error {
	return &Error{
		Code: "PGRST108", Message: fmt.Sprintf("'%s' is not an embedded resource in this request", name),
		Hint: fmt.Sprintf("Verify that '%s' is included in the 'select' query parameter.", name),
	}
}

func (r *Read) operand(f parse.Field) Operand {
	o := Operand{Of: r.Alias, Name: f.Name, Path: f.Path}
	if c := r.Relation.Column(f.Name); c != nil {
		o.JSON = c.Base == "json" || c.Base == "jsonb"
		o.Text = c.Base == "tsvector"
		if len(f.Path) == 0 {
			o.Casts = c.Casts
		}
	}
	return o
}

// columns are what an item of select shows: most of them one column, a spread embed any number.
func (p planner) columns(read *Read, item parse.Item, above []string) ([]Column, error) {
	switch {
	case item.Embed:
		return p.embed(read, item, above)
	case item.Star:
		return []Column{{Star: true, Operand: Operand{Of: read.Alias}}}, nil
	}
	if item.Cast == "" && item.Agg == "" && len(item.Field.Path) == 0 {
		c := read.plain(item.Field.Name)
		if item.Alias != "" {
			c.As = item.Alias
		}
		return []Column{c}, nil
	}
	c := Column{Cast: item.Cast, As: item.Alias, Agg: item.Agg, AggCast: item.AggCast}
	if item.Field.Name != "" || item.Agg == "" {
		c.Operand = read.operand(item.Field)
	}
	if item.Agg == "" {
		c.Write = c.ToJSON
	}
	if c.As == "" && c.Agg == "" && (len(c.Path) > 0 || c.Cast != "") {
		c.As = resultName(c.Operand)
	}
	return []Column{c}, nil
}

// resultName is what a client finds a JSON path under: its last named key, else the column.
func resultName(o Operand) string {
	for i := len(o.Path) - 1; i >= 0; i-- {
		if !o.Path[i].Index {
			return o.Path[i].Key
		}
	}
	return o.Name
}

// cond is a comparison. Whether the name of an embed is null asks whether there are related rows; all else that is
// asked of the name is asked of a column.
func (r *Read) cond(c parse.Cond) Cond {
	if c.Op == "is" && (c.Value == "null" || c.Value == "not_null") && len(c.Field.Path) == 0 {
		if e := r.embed(c.Field.Name); e != nil {
			e.Tested = true
			return Cond{Embed: e, None: (c.Value == "null") != c.Not}
		}
	}
	return Cond{Cond: c, Left: r.operand(c.Field)}
}

func (r *Read) tree(t parse.Tree) Cond {
	if t.Cond != nil {
		return r.cond(*t.Cond)
	}
	c := Cond{Group: true, Or: t.Or}
	c.Not = t.Not
	for _, m := range t.Members {
		c.Members = append(c.Members, r.tree(m))
	}
	return c
}

func (r *Read) order(terms []parse.Order) ([]Order, error) {
	var order []Order
	for _, term := range terms {
		o := Order{Desc: term.Desc, Nulls: term.Nulls}
		if term.Relation == "" {
			o.Operand = r.operand(term.Field)
			order = append(order, o)
			continue
		}
		e := r.embed(term.Relation)
		switch {
		case e == nil:
			return nil, notEmbedded(term.Relation)
		case !e.ToOne:
			return nil, &Error{
				Code: "PGRST118", Message: fmt.Sprintf("A related order on '%s' is not possible", term.Relation),
				Details: fmt.Sprintf("'%s' and '%s' do not form a many-to-one or one-to-one relationship", r.Relation.Name.Name, term.Relation),
			}
		}
		o.Embed, o.At, o.Lifted = e, len(e.Keys), e.lifts(term.Field)
		if o.Lifted == "" {
			e.Keys = append(e.Keys, e.Read.operand(term.Field))
		}
		order = append(order, o)
	}
	return order, nil
}
