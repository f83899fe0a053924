package plan

import (
	"fmt"
	"slices"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// Verb is what a write does.
type Verb int

// The verbs.
const (
	Insert Verb = iota
	Update
	Delete
)

// A Write changes rows of one relation.
type Write struct {
	Verb     Verb
	Relation *schema.Relation
	Body     *parse.Body      // nil for Delete
	Columns  []*schema.Column // taken from the body
	Defaults bool             // columns that an element lacks get their default instead of NULL
	Where    []Cond

	// Returned are the columns that Read or Location need of the changed rows. Nothing is selected without them,
	// so that a role may write what it may not read.
	Returned []string
	All      bool     // every column is needed
	Read     *Read    // of the changed rows; nil: no representation
	Location []string // key columns that the address of a single new row is made of
	Conflict *Conflict
	Put      bool // of the body only its first row, and only if Where is true of it
}

// A Conflict is what an insert does about rows that are there already.
type Conflict struct {
	Columns []string
	Merge   bool // update them; else leave them
}

// A WriteRequest is what PlanWrite needs besides the schema.
type WriteRequest struct {
	Verb           Verb
	Query          *parse.Query
	Body           *parse.Body
	Representation bool
	Location       bool
	Defaults       bool
	Limits         Limits
	Resolution     string // of conflicts: "", merge-duplicates, ignore-duplicates
	Put            bool   // an insert of the one row that the query names by its key
}

// WriteRelation plans POST, PATCH and DELETE of a relation.
func WriteRelation(s *schema.Schema, r *schema.Relation, req WriteRequest) (*Write, error) {
	w := &Write{Verb: req.Verb, Relation: r, Body: req.Body, Defaults: req.Defaults}
	p := planner{schema: s, query: req.Query, limits: req.Limits}
	read, err := p.read(r, true)
	if err != nil {
		return nil, err
	}
	if req.Verb != Insert { // what POST is filtered by could only hide what it did
		w.Where = read.Where
	}
	read.Where = nil
	if w.Columns, err = bodyColumns(r, req); err != nil {
		return nil, err
	}
	if req.Put {
		if err := w.put(req.Query); err != nil {
			return nil, err
		}
	}
	if req.Verb == Insert && req.Resolution != "" {
		w.Conflict = conflict(r, req, len(w.Columns) > 0)
	}
	if req.Representation {
		w.Read = read
		w.returnFor(read)
	}
	if req.Location {
		w.Location = r.VisibleKey()
		w.Returned = w.Location
	}
	return w, nil
}

// BodyAlias is what statements call a row of the body.
const BodyAlias = "_body"

// put holds a query to naming exactly the key's columns by equality, and the body's row to the same values.
func (w *Write) put(q *parse.Query) error {
	wrong := &Error{Code: "PGRST105", Message: "Filters must include all and only primary key columns with 'eq' operators"}
	key := w.Relation.VisibleKey()
	if len(key) == 0 || len(q.Filters) != len(key) || len(q.Logic) > 0 {
		return wrong
	}
	for _, f := range q.Filters {
		c := f.Cond
		if len(f.Path) > 0 || len(c.Field.Path) > 0 || c.Op != "eq" || c.Not || c.Quant != "" || !slices.Contains(key, c.Field.Name) {
			return wrong
		}
		key = slices.DeleteFunc(slices.Clone(key), func(name string) bool { return name == c.Field.Name })
		if !slices.ContainsFunc(w.Columns, func(of *schema.Column) bool { return of.Name == c.Field.Name }) {
			return &Error{Code: "PGRST115", Message: PutMismatch}
		}
		w.Where = append(w.Where, Cond{Cond: c, Left: Operand{Of: BodyAlias, Name: c.Field.Name}})
	}
	w.Put = true
	w.Conflict = &Conflict{Columns: w.Relation.Key, Merge: true}
	return nil
}

// PutMismatch is the message of PGRST115.
const PutMismatch = "Payload values do not match URL in primary key column(s)"

// conflict finds what an upsert goes by: on_conflict, else the primary key; nil when there is neither. Columns that
// are unique only within the tenant get his column added, which PostgreSQL would miss.
func conflict(r *schema.Relation, req WriteRequest, some bool) *Conflict {
	columns := req.Query.OnConflict
	if columns == nil {
		columns = r.Key
	} else if r.Scoped && !r.Constrained(columns) {
		if with := append(slices.Clone(columns), schema.TenantColumn); r.Constrained(with) {
			columns = with
		}
	}
	if len(columns) == 0 {
		return nil
	}
	return &Conflict{Columns: columns, Merge: some && req.Resolution == "merge-duplicates"}
}

func bodyColumns(r *schema.Relation, req WriteRequest) ([]*schema.Column, error) {
	if req.Body == nil || req.Body.Rows == 0 {
		return nil, nil
	}
	names := req.Query.Columns
	if names == nil {
		names = req.Body.Keys
	}
	var columns []*schema.Column
	for _, name := range names {
		c := r.Column(name)
		if c == nil {
			return nil, &Error{Code: "PGRST204", Message: fmt.Sprintf("Could not find the '%s' column of '%s' in the schema cache", name, r.Name.Name)}
		}
		if !slices.Contains(columns, c) {
			columns = append(columns, c)
		}
	}
	return columns, nil
}

// returnFor notes what the representation needs.
func (w *Write) returnFor(read *Read) {
	w.Returned, w.All = read.Needs()
	if w.All { // the named ones that "*" does not bring
		w.Returned = slices.DeleteFunc(w.Returned, func(name string) bool { return w.Relation.Column(name) != nil })
	}
}

// Needs are the columns that a level shows, is ordered by, or joins its embeds by; all says that every one is needed.
// Computed fields are asked for by name like columns: where the relation itself is read is the last place where they
// resolve.
func (r *Read) Needs() (names []string, all bool) {
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, c := range r.Columns {
		switch {
		case c.Star:
			all = true
		case c.Embed == nil && c.Name != "":
			add(c.Name)
		}
	}
	for _, e := range r.Embeds {
		all = all || e.Read.Rows != nil
		for _, pair := range e.parentPairs() {
			add(pair.Parent)
		}
	}
	for _, o := range r.Order {
		if o.Embed == nil {
			add(o.Name)
		}
	}
	return names, all
}
