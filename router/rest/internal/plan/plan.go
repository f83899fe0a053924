// Package plan matches a request tree against a schema and says what is to be read or written.
//
// It is the only place that looks names up. A name that is no column may still be a computed field, which only
// PostgreSQL can tell; such names go on as identifiers to be quoted.
package plan

import (
	"fmt"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// Error is a request that does not fit the schema.
type Error struct {
	Code, Message, Details, Hint string

	List []Ambiguous // stands for Details where there are several ways
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unsupported is the answer to what the dialect has and this handler has not yet.
func Unsupported(feature string) *Error {
	return &Error{Code: "PGRST127", Message: "Feature not implemented", Details: feature + " not supported yet"}
}

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
}

// An Operand is a column of a relation or a place inside a JSON column.
type Operand struct {
	Of   string // alias of the relation
	Name string
	Path []parse.Step
	JSON bool // json or jsonb below its domains: arrows apply directly
	Text bool // tsvector below its domains: searched as it is
}

// A Column is one column of the result.
type Column struct {
	Operand
	Star  bool
	Embed *Embed // the related rows; the operand is not used
	Cast  string
	As    string // name in the result; "" is the operand's own
}

// A Cond is a comparison, or and/or over other conditions.
type Cond struct {
	parse.Cond // Field is not used: Left stands for it
	Left       Operand
	Group      bool
	Or         bool
	Members    []Cond
}

// An Order is one term of an order.
type Order struct {
	Operand
	Desc  bool
	Nulls string
}

// planner holds what all parts of one plan need.
type planner struct {
	schema  *schema.Schema
	query   *parse.Query
	maxRows int64
}

// ReadRelation plans GET and HEAD of a relation.
func ReadRelation(s *schema.Schema, r *schema.Relation, q *parse.Query, page parse.Page, maxRows int64) (*Read, error) {
	p := planner{schema: s, query: q, maxRows: maxRows}
	read, err := p.read(r, true)
	if err != nil {
		return nil, err
	}
	read.Limit, read.Offset = p.capped(page.Limit), page.Offset
	return read, nil
}

func (p planner) capped(limit *int64) *int64 {
	if p.maxRows > 0 && (limit == nil || *limit > p.maxRows) {
		return &p.maxRows
	}
	return limit
}

// read plans the root with all below it; where says whether filters apply to the root itself.
func (p planner) read(r *schema.Relation, where bool) (*Read, error) {
	read, err := p.level(r, r.Name.Name, p.query.Select, nil)
	if err != nil {
		return nil, err
	}
	return read, p.attach(read, where)
}

// level plans what one level shows. Above are the aliases that its conditions may speak of.
func (p planner) level(r *schema.Relation, alias string, items []parse.Item, above []string) (*Read, error) {
	read := &Read{Relation: r, Alias: alias}
	for _, item := range items {
		column, err := p.column(read, item, above)
		if err != nil {
			return nil, err
		}
		if column.Embed == nil || !column.Embed.Silent {
			read.Columns = append(read.Columns, column)
		}
	}
	if items == nil {
		read.Columns = []Column{{Star: true, Operand: Operand{Of: alias}}}
	}
	return read, nil
}

// attach hangs filters, logic, orders and ranges on the levels that they speak of.
func (p planner) attach(root *Read, where bool) error {
	for _, f := range p.query.Filters {
		read, err := root.find(f.Path)
		if err != nil {
			return err
		}
		if where || read != root {
			read.Where = append(read.Where, Cond{Cond: f.Cond, Left: read.operand(f.Cond.Field)})
		}
	}
	for _, o := range p.query.Orders {
		read, err := root.find(o.Path)
		if err != nil {
			return err
		}
		if read.Order, err = read.order(o.Terms); err != nil {
			return err
		}
	}
	for _, r := range p.query.Ranges {
		read, err := root.find(r.Path)
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
		read, err := root.find(l.Path)
		if err != nil {
			return err
		}
		if where || read != root {
			read.Where = append(read.Where, read.tree(l.Tree))
		}
	}
	return nil
}

// find walks down the embeds of a path. An embed goes by its alias, else by its relation's name.
func (r *Read) find(path []string) (*Read, error) {
	read := r
	for _, name := range path {
		var next *Read
		for _, e := range read.Embeds {
			if e.As == name || next == nil && (e.Target == name || e.Read.Relation.Name.Name == name) {
				next = e.Read
			}
		}
		if next == nil {
			return nil, notEmbedded(name)
		}
		read = next
	}
	return read, nil
}

func notEmbedded(name string) *Error {
	return &Error{Code: "PGRST108", Message: fmt.Sprintf("'%s' is not an embedded resource in this request", name),
		Hint: fmt.Sprintf("Verify that '%s' is included in the 'select' query parameter.", name)}
}

func (r *Read) operand(f parse.Field) Operand {
	o := Operand{Of: r.Alias, Name: f.Name, Path: f.Path}
	if c := r.Relation.Column(f.Name); c != nil {
		o.JSON = c.Base == "json" || c.Base == "jsonb"
		o.Text = c.Base == "tsvector"
	}
	return o
}

func (p planner) column(read *Read, item parse.Item, above []string) (Column, error) {
	switch {
	case item.Embed:
		e, err := p.embed(read, item, above)
		return Column{Embed: e, As: e.name()}, err
	case item.Agg != "":
		return Column{}, Unsupported("Aggregate functions in select are")
	case item.Star:
		return Column{Star: true, Operand: Operand{Of: read.Alias}}, nil
	}
	c := Column{Operand: read.operand(item.Field), Cast: item.Cast, As: item.Alias}
	if c.As == "" && (len(c.Path) > 0 || c.Cast != "") {
		c.As = resultName(c.Operand)
	}
	return c, nil
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

func (r *Read) tree(t parse.Tree) Cond {
	if t.Cond != nil {
		return Cond{Cond: *t.Cond, Left: r.operand(t.Cond.Field)}
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
		if term.Relation != "" {
			if _, err := r.find([]string{term.Relation}); err != nil {
				return nil, err
			}
			return nil, Unsupported("Ordering by an embedded resource is")
		}
		order = append(order, Order{Operand: r.operand(term.Field), Desc: term.Desc, Nulls: term.Nulls})
	}
	return order, nil
}
