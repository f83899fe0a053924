package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// An Embed is related rows inside the rows of their parent.
type Embed struct {
	Read    *Read
	Index   int    // among its parent's embeds
	Parent  string // the parent's alias
	Target  string // as the request names it
	As      string // alias; "" is Target
	ToOne   bool
	Inner   bool      // parents without related rows are left out
	Silent  bool      // joins, but shows nothing
	Spread  bool      // its columns are the parent's; those of many rows are arrays
	Tested  bool      // a condition asks whether there are related rows
	Keys    []Operand // what the parent's rows are ordered by
	On      []Pair
	Through *Through // many-to-many
}

// A Pair is two columns that are equal: one of the parent, one of the related rows.
type Pair struct{ Parent, Child string }

// A Through is the junction of a many-to-many relationship.
type Through struct {
	Relation *schema.Relation
	Alias    string
	Parent   []Pair // the parent's column and the junction's
	Child    []Pair // the junction's column and the related one
}

func (e *Embed) name() string {
	switch {
	case e == nil:
		return ""
	case e.As != "":
		return e.As
	}
	return e.Target
}

func (e *Embed) parentPairs() []Pair {
	if e.Through != nil {
		return e.Through.Parent
	}
	return e.On
}

// Cardinalities in the order in which ambiguous ones are listed.
const (
	oneToMany = iota
	manyToOne
	oneToOne
	manyToMany
)

var cardinalities = [...]string{"one-to-many", "many-to-one", "one-to-one", "many-to-many"}

// A relationship is one way from a relation to another.
type relationship struct {
	kind     int
	computed *schema.Computed // by a function; the rest is not used but to
	from, to *schema.Relation
	key      *schema.ForeignKey
	second   *schema.ForeignKey // of a many-to-many: from the junction to the target
	on       []Pair
}

// embed plans one embed and what is in it, and adds it to its parent. It gives what the parent shows of it.
func (p planner) embed(parent *Read, item parse.Item, above []string) ([]Column, error) {
	rel, err := p.relationship(parent.Relation, item.Target, item.Hint)
	if err != nil {
		return nil, err
	}
	e := &Embed{
		Index: len(parent.Embeds), Parent: parent.Alias, Target: item.Target, As: item.Alias, Spread: item.Spread,
		Inner: item.Join == "inner", ToOne: rel.toOne(), On: rel.on,
	}
	if rel.kind == manyToMany {
		e.Through = &Through{Relation: rel.key.From, Parent: pairs(rel.key.Targets, rel.key.Columns), Child: pairs(rel.second.Columns, rel.second.Targets)}
	}
	above = append(slices.Clip(above), parent.Alias)
	alias := fmt.Sprintf("%s_%d", rel.to.Name.Name, len(above))
	for slices.Contains(above, alias) { // a table may really be called like that
		alias += "_"
	}
	if e.Through != nil {
		e.Through.Alias = alias + "_via"
		for slices.Contains(above, e.Through.Alias) {
			e.Through.Alias += "_"
		}
	}
	parent.Embeds = append(parent.Embeds, e)
	if e.Read, err = p.level(rel.to, alias, item.Items, above); err != nil {
		return nil, err
	}
	if rel.computed != nil {
		e.Read.Rows = &Rows{Function: rel.computed.Function, Of: parent}
	}
	if !e.ToOne {
		e.Read.Limit = p.capped(nil)
	}
	e.Silent = len(e.Read.Columns) == 0
	switch {
	case e.Spread:
		return e.lift()
	case e.Silent:
		return nil, nil
	}
	e.Read.group()
	return []Column{{Embed: e, As: e.name()}}, nil
}

// lift gives the parent the columns of a spread. They get names of their own on the way, since nothing says that
// theirs differ. An aggregate is the parent's too: it is over all rows that the parent has.
func (e *Embed) lift() ([]Column, error) {
	e.Read.expand()
	var lifted []Column
	for i := range e.Read.Columns {
		c := &e.Read.Columns[i]
		up := Column{Embed: e, Lifted: fmt.Sprintf("s%d", i), As: c.name()}
		if c.Agg != "" {
			if !e.ToOne {
				return nil, &Error{Code: "PGRST127", Message: "Feature not implemented", Details: "Aggregates are not implemented for one-to-many or many-to-many spreads."}
			}
			up.Agg, up.AggCast, up.As = c.Agg, c.AggCast, c.As
			c.Agg, c.AggCast = "", ""
		}
		c.As = up.Lifted
		lifted = append(lifted, up)
	}
	return lifted, nil
}

// lifts is what a spread field is called on its way to the parent; "" when it is not shown as it is. Grouped parents
// can be ordered by nothing else.
func (e *Embed) lifts(f parse.Field) string {
	if !e.Spread {
		return ""
	}
	for _, c := range e.Read.Columns {
		if c.Name == f.Name && c.Embed == nil && c.Cast == "" && c.Write == "" && slices.Equal(c.Path, f.Path) {
			return c.As
		}
	}
	return ""
}

func pairs(parent, child []string) []Pair {
	list := make([]Pair, len(parent))
	for i := range parent {
		list[i] = Pair{parent[i], child[i]}
	}
	return list
}

// relationship finds the one relationship that target and hint mean.
func (p planner) relationship(origin *schema.Relation, target, hint string) (*relationship, error) {
	for _, c := range origin.Computed { // in place of what keys say
		if c.Function.Name == target {
			return &relationship{computed: c, from: origin, to: c.To}, nil
		}
	}
	var found []*relationship
	for _, rel := range relationships(origin, target) {
		if rel.to.Schema == origin.Schema && rel.matches(target, hint) {
			found = append(found, rel)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, p.unrelated(origin, target, hint, relationships(origin, ""))
	}
	return nil, ambiguous(origin, target, found)
}

// relationships are all ways out of a relation. Many-to-many ones, of which there may be very many, are only those
// to the relation called target, unless that is empty.
func relationships(origin *schema.Relation, target string) []*relationship {
	var all []*relationship
	for _, key := range origin.ForeignKeys {
		rel := &relationship{kind: manyToOne, from: origin, to: key.To, key: key, on: pairs(key.Columns, key.Targets)}
		if key.Single {
			rel.kind = oneToOne
		}
		all = append(all, rel)
	}
	for _, key := range origin.Referrers {
		rel := &relationship{kind: oneToMany, from: origin, to: key.From, key: key, on: pairs(key.Targets, key.Columns)}
		if key.Single {
			rel.kind = oneToOne
		}
		if !(key.From == origin && rel.kind == oneToOne) { // its other direction looks the same
			all = append(all, rel)
		}
		for _, second := range key.From.ForeignKeys {
			if (target == "" || second.To.Name.Name == target) && second.Constraint != key.Constraint && second.To != origin && inside(key.Columns, key.From.Key) && inside(second.Columns, key.From.Key) {
				all = append(all, &relationship{kind: manyToMany, from: origin, to: second.To, key: key, second: second})
			}
		}
	}
	return all
}

func (r *relationship) toOne() bool {
	if r.computed != nil {
		return r.computed.ToOne
	}
	return r.kind == manyToOne || r.kind == oneToOne
}

func inside(columns, key []string) bool {
	for _, c := range columns {
		if !slices.Contains(key, c) {
			return false
		}
	}
	return len(key) > 0
}

// shown are the pairs as clients know them: without the tenant's columns.
func (r *relationship) shown() []Pair {
	if r.kind == manyToMany {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(r.on), func(p Pair) bool {
		return p.Parent == schema.TenantColumn && p.Child == schema.TenantColumn && (r.from.Scoped || r.to.Scoped)
	})
}

func (r *relationship) matches(target, hint string) bool {
	on := r.shown()
	origin := func(name string) bool { return len(on) == 1 && on[0].Parent == name }
	foreign := func(name string) bool { return len(on) == 1 && on[0].Child == name }
	constraint := func(name string) bool { return r.kind != manyToMany && r.key.Constraint == name }
	named := r.to.Name.Name == target
	switch {
	case r.from == r.to && hint == "":
		return named && r.kind == oneToMany || r.kind == manyToOne && origin(target)
	case r.from == r.to:
		return named && r.kind == oneToMany && foreign(hint)
	case hint == "":
		return named || !r.to.View && (constraint(target) || origin(target))
	case r.kind == manyToMany:
		return named && r.key.From.Name.Name == hint
	}
	return named && (constraint(hint) || origin(hint) || foreign(hint))
}

const likeRelation = 0.33

func (p planner) unrelated(origin *schema.Relation, target, hint string, all []*relationship) error {
	using := ""
	if hint != "" {
		using = fmt.Sprintf(" using the hint '%s'", hint)
	}
	e := &Error{
		Code:    "PGRST200",
		Message: fmt.Sprintf("Could not find a relationship between '%s' and '%s' in the schema cache", origin.Name.Name, target),
		Details: fmt.Sprintf("Searched for a foreign key relationship between '%s' and '%s'%s in the schema '%s', but no matches were found.", origin.Name.Name, target, using, origin.Schema),
	}
	wrong, names := target, []string{}
	for _, rel := range all {
		names = append(names, rel.to.Name.Name)
	}
	if len(all) == 0 { // then it is the origin that is wrong
		wrong, names = origin.Name.Name, p.schema.Related(origin.Schema)
	}
	slices.Sort(names)
	// Only what is alike is worth asking whether it may be named.
	if Similar(wrong, names, likeRelation) == "" {
		return e
	}
	if like := Similar(wrong, p.limits.relations(origin.Schema, slices.Compact(names)), likeRelation); like != "" {
		e.Hint = fmt.Sprintf("Perhaps you meant '%s' instead of '%s'.", like, wrong)
	}
	return e
}

// An Ambiguous is one relationship of several that a request may mean.
type Ambiguous struct {
	Cardinality  string `json:"cardinality"`
	Embedding    string `json:"embedding"`
	Relationship string `json:"relationship"`
}

func ambiguous(origin *schema.Relation, target string, found []*relationship) error {
	slices.SortStableFunc(found, func(a, b *relationship) int {
		return cmp.Or(cmp.Compare(a.to.Name.Name, b.to.Name.Name), cmp.Compare(a.kind, b.kind), cmp.Compare(a.key.Constraint, b.key.Constraint))
	})
	e := &Error{Code: "PGRST201", Message: fmt.Sprintf("Could not embed because more than one relationship was found for '%s' and '%s'", origin.Name.Name, target)}
	var hints []string
	for _, rel := range found {
		e.List = append(e.List, Ambiguous{
			Cardinality: cardinalities[rel.kind],
			Embedding:   origin.Name.Name + " with " + rel.to.Name.Name, Relationship: rel.describe(),
		})
		by := rel.key.Constraint
		if rel.kind == manyToMany {
			by = rel.key.From.Name.Name
		}
		hints = append(hints, fmt.Sprintf("'%s!%s'", rel.to.Name.Name, by))
	}
	e.Hint = fmt.Sprintf("Try changing '%s' to one of the following: %s. Find the desired relationship in the 'details' key.", target, strings.Join(hints, ", "))
	return e
}

// describe is a relationship as PGRST201 lists it.
func (r *relationship) describe() string {
	list := func(of *schema.Relation, columns []string) string {
		return "(" + strings.Join(of.Visible(columns), ", ") + ")"
	}
	if r.kind == manyToMany {
		j := r.key.From
		return fmt.Sprintf("%s using %s%s and %s%s", j.Name.Name, r.key.Constraint, list(j, r.key.Columns), r.second.Constraint, list(j, r.second.Columns))
	}
	parent, child := make([]string, len(r.on)), make([]string, len(r.on))
	for i, p := range r.on {
		parent[i], child[i] = p.Parent, p.Child
	}
	return fmt.Sprintf("%s using %s%s and %s%s", r.key.Constraint, r.from.Name.Name, list(r.from, parent), r.to.Name.Name, list(r.to, child))
}
