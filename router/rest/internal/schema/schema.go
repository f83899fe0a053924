// Package schema knows the tables of one database shape, as its catalog tells them.
//
// A Schema is immutable and holds no OIDs, so that one serves every database of the same fingerprint.
package schema

import "slices"

// SQL is text that the database's catalog wrote: a type's name or a default's expression. It is the only text
// besides constants, quoted identifiers and whitelisted casts that a statement may contain.
type SQL string

// A Schema is everything that requests are matched against.
type Schema struct {
	names         []string            // of the exposed schemas
	relations     map[Name]*Relation  //
	inSchema      map[string][]string // names of its relations, sorted
	functions     map[Name][]*Function
	functionNames map[string][]string // by schema, sorted
	handlers      map[handlerKey]*Handler
	digest        [16]byte // of all rows it was built from

	GeoJSON bool // PostGIS is there to write rows as features
}

// A Name is a qualified name.
type Name struct{ Schema, Name string }

// A Relation is a table, view, materialized view, foreign table or partitioned parent.
type Relation struct {
	Name
	Insertable, Updatable, Deletable bool
	View                             bool
	Triggers                         bool     // writes run functions: its own triggers', or for a view its tables'
	Volatile                         bool     // a view that calls a VOLATILE function
	Columns                          []Column // in the order of the table
	Key                              []string // primary key; empty without one
	Uniques                          [][]string
	ForeignKeys                      []*ForeignKey // from this relation
	Referrers                        []*ForeignKey // to this relation
	Computed                         []*Computed   // related rows that functions give

	// Scoped says that rows belong to a tenant: the relation was bound, or is a view that shows the tenant_id of
	// a bound table. The column takes part in what is executed, but not in what requests are matched against.
	Scoped bool
}

// TenantColumn is the column of bound relations.
const TenantColumn = "tenant_id"

// A Column is one column of a relation.
type Column struct {
	Name    string
	Type    SQL    // as the catalog writes it, qualified unless built in
	Base    string // its type below all domains, without modifiers: "jsonb", "tsvector"
	NotNull bool
	Default SQL // "" without one
	Casts
}

// Casts are functions that write and read a domain's values; "" where the values stand for themselves.
type Casts struct {
	ToJSON   SQL // writes a value in answers
	FromJSON SQL // reads it from bodies
	FromText SQL // reads it from filters
}

// A ForeignKey leads from Columns of one relation to Targets of another.
type ForeignKey struct {
	Constraint       string
	From, To         *Relation
	Columns, Targets []string
	Single           bool // no two rows of From lead to the same row of To
}

// A Computed is a relationship that a function of a row makes.
type Computed struct {
	Function Name
	To       *Relation
	ToOne    bool
}

// Relation is the exposed relation of that name, nil when there is none.
func (s *Schema) Relation(schema, name string) *Relation { return s.relations[Name{schema, name}] }

// Relations are the names in one schema, sorted.
func (s *Schema) Relations(schema string) []string { return s.inSchema[schema] }

// Related are the names in one schema of relations that have relationships, sorted.
func (s *Schema) Related(schema string) []string {
	var related []string
	for _, name := range s.inSchema[schema] {
		if r := s.Relation(schema, name); len(r.ForeignKeys)+len(r.Referrers) > 0 {
			related = append(related, name)
		}
	}
	return related
}

// Same says whether two schemas were read from catalogs that said the same.
func (s *Schema) Same(other *Schema) bool { return other != nil && s.digest == other.digest }

// Column is the column of that name, nil when there is none.
func (r *Relation) Column(name string) *Column {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return &r.Columns[i]
		}
	}
	return nil
}

// VisibleKey is the primary key as clients know it: without the tenant's column.
func (r *Relation) VisibleKey() []string { return r.Visible(r.Key) }

// Unique says whether columns are, as a set, the primary key or a unique constraint. The tenant's column does not
// count: within a tenant it tells nothing apart.
func (r *Relation) Unique(columns []string) bool {
	return r.anyKey(func(key []string) bool { return sameSet(r.Visible(key), r.Visible(columns)) })
}

// Constrained says whether exactly these columns are the primary key or a unique constraint.
func (r *Relation) Constrained(columns []string) bool {
	return r.anyKey(func(key []string) bool { return sameSet(key, columns) })
}

func (r *Relation) anyKey(is func([]string) bool) bool {
	return is(r.Key) || slices.ContainsFunc(r.Uniques, is)
}

func sameSet(a, b []string) bool {
	return len(a) > 0 && slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// Visible are the columns of a key as clients know them: without the tenant's.
func (r *Relation) Visible(columns []string) []string {
	if !r.Scoped {
		return columns
	}
	var shown []string
	for _, c := range columns {
		if c != TenantColumn {
			shown = append(shown, c)
		}
	}
	return shown
}
