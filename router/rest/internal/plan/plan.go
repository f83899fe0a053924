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
	Columns  []Column
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
	Star bool
	Cast string
	As   string // name in the result; "" is the operand's own
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

// Planner holds what all parts of one plan need.
type planner struct {
	query *parse.Query
}

// ReadRelation plans GET and HEAD of a relation.
func ReadRelation(r *schema.Relation, q *parse.Query, page parse.Page, maxRows int64) (*Read, error) {
	p := planner{query: q}
	read, err := p.read(r, true)
	if err != nil {
		return nil, err
	}
	read.Limit, read.Offset = page.Limit, page.Offset
	if maxRows > 0 && (read.Limit == nil || *read.Limit > maxRows) {
		read.Limit = &maxRows
	}
	return read, nil
}

// read plans the root level; where says whether filters apply to it.
func (p planner) read(r *schema.Relation, where bool) (*Read, error) {
	read := &Read{Relation: r, Alias: r.Name.Name}
	for _, item := range p.query.Select {
		column, err := p.column(r, item)
		if err != nil {
			return nil, err
		}
		read.Columns = append(read.Columns, column)
	}
	if len(read.Columns) == 0 {
		read.Columns = []Column{{Star: true, Operand: Operand{Of: read.Alias}}}
	}
	if err := p.attached(); err != nil {
		return nil, err
	}
	if where {
		read.Where = p.where(r)
	}
	order, err := p.order(r)
	read.Order = order
	return read, err
}

// attached refuses what is said about embeds that the request does not have.
func (p planner) attached() error {
	var paths [][]string
	for _, f := range p.query.Filters {
		paths = append(paths, f.Path)
	}
	for _, l := range p.query.Logic {
		paths = append(paths, l.Path)
	}
	for _, o := range p.query.Orders {
		paths = append(paths, o.Path)
	}
	for _, r := range p.query.Ranges {
		paths = append(paths, r.Path)
	}
	for _, path := range paths {
		if len(path) > 0 {
			return notEmbedded(path[0])
		}
	}
	return nil
}

func notEmbedded(name string) *Error {
	return &Error{Code: "PGRST108", Message: fmt.Sprintf("'%s' is not an embedded resource in this request", name),
		Hint: fmt.Sprintf("Verify that '%s' is included in the 'select' query parameter.", name)}
}

func operand(r *schema.Relation, f parse.Field) Operand {
	o := Operand{Of: r.Name.Name, Name: f.Name, Path: f.Path}
	if c := r.Column(f.Name); c != nil {
		o.JSON = c.Base == "json" || c.Base == "jsonb"
		o.Text = c.Base == "tsvector"
	}
	return o
}

func (p planner) column(r *schema.Relation, item parse.Item) (Column, error) {
	switch {
	case item.Embed:
		return Column{}, Unsupported("Embedding '" + item.Target + "' in select is")
	case item.Agg != "":
		return Column{}, Unsupported("Aggregate functions in select are")
	case item.Star:
		return Column{Star: true, Operand: Operand{Of: r.Name.Name}}, nil
	}
	c := Column{Operand: operand(r, item.Field), Cast: item.Cast, As: item.Alias}
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

func (p planner) where(r *schema.Relation) []Cond {
	var conds []Cond
	for _, f := range p.query.Filters {
		conds = append(conds, Cond{Cond: f.Cond, Left: operand(r, f.Cond.Field)})
	}
	for _, l := range p.query.Logic {
		conds = append(conds, p.tree(r, l.Tree))
	}
	return conds
}

func (p planner) tree(r *schema.Relation, t parse.Tree) Cond {
	if t.Cond != nil {
		return Cond{Cond: *t.Cond, Left: operand(r, t.Cond.Field)}
	}
	c := Cond{Group: true, Or: t.Or}
	c.Not = t.Not
	for _, m := range t.Members {
		c.Members = append(c.Members, p.tree(r, m))
	}
	return c
}

func (p planner) order(r *schema.Relation) ([]Order, error) {
	var order []Order
	for _, o := range p.query.Orders {
		for _, term := range o.Terms {
			if term.Relation != "" {
				return nil, notEmbedded(term.Relation)
			}
			order = append(order, Order{Operand: operand(r, term.Field), Desc: term.Desc, Nulls: term.Nulls})
		}
	}
	return order, nil
}
