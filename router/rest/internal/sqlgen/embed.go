package sqlgen

import (
	"slices"
	"strconv"

	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
)

// embedAlias writes what an embed is called beside its parent.
func (w *writer) embedAlias(e *plan.Embed) {
	w.lit("_e")
	w.sql.WriteString(strconv.Itoa(e.Index))
}

func (w *writer) key(at int) {
	w.lit("o")
	w.sql.WriteString(strconv.Itoa(at))
}

// pageFirst takes a level's page out of its relation before anything is joined to it, so that related rows are looked
// for only where they are shown. Conditions on embeds become searches of their own. It writes nothing, and says so,
// where the page depends on what is joined.
func (w *writer) pageFirst(r *plan.Read, of *plan.Embed) bool {
	names, all := r.Needs()
	if !pageable(r, names, all) {
		return false
	}
	w.lit(" FROM (SELECT")
	if all {
		w.lit(" ")
		w.ident(r.Alias)
		w.lit(".*")
	} else {
		next := w.conjunctionOf(" ", ", ")
		for _, name := range names {
			next()
			w.qualified(r.Alias, name)
		}
	}
	w.lit(" FROM ")
	w.from(r)
	w.through(of)
	within := w.unjoined
	w.unjoined = true
	w.exists(r, w.where(r, of))
	w.unjoined = within
	w.order(r.Order)
	w.page(r)
	w.lit(") AS ")
	w.ident(r.Alias)
	w.paged = append(w.paged, r)
	return true
}

// pageable says whether a level's page can be told without its embeds' rows.
func pageable(r *plan.Read, names []string, all bool) bool {
	if len(r.Embeds) == 0 || r.Limit == nil || r.Grouped {
		return false
	}
	if slices.ContainsFunc(r.Order, func(o plan.Order) bool { return o.Embed != nil }) {
		return false
	}
	for _, e := range r.Embeds {
		switch related := e.Read; {
		case (e.Inner || e.Tested) && (related.Grouped || related.Offset != 0 || related.Limit != nil && *related.Limit <= 0):
			return false // that there are rows does not say that some are left
		case !atMostOne(e):
			return false
		}
	}
	for _, name := range names {
		if all && r.Relation.Column(name) == nil { // "*" would show it once more
			return false
		}
	}
	return true
}

// atMostOne says whether an embed adds no row to its parent's. Rows of a key do not where the key leads to a table;
// nobody promises that of views and functions.
func atMostOne(e *plan.Embed) bool {
	if !e.ToOne {
		return true
	}
	if e.Read.Rows != nil || e.Read.Relation.View {
		return false
	}
	return !slices.ContainsFunc(e.Read.Embeds, func(within *plan.Embed) bool { return !atMostOne(within) })
}

// laterals joins each embed's rows to its parent: as one JSON value j or, spread, as columns. In n and j stands
// whether there are any. Of a page that is already taken no row may go.
func (w *writer) laterals(r *plan.Read, taken bool) {
	for _, e := range r.Embeds {
		inner := e.Inner && !taken
		if e.Silent && !inner && (!e.Tested || taken) && len(e.Keys) == 0 {
			continue
		}
		if inner {
			w.lit(" INNER JOIN LATERAL (SELECT")
		} else {
			w.lit(" LEFT JOIN LATERAL (SELECT")
		}
		switch {
		case e.Spread && e.ToOne:
			w.lit(" true AS n")
			if len(e.Read.Columns) > 0 {
				w.lit(",")
			}
			w.columns(e.Read)
			w.keys(e)
			w.rest(e.Read, e)
		case e.Spread:
			w.lit(" nullif(count(*), 0) AS n")
			for _, c := range e.Read.Columns {
				w.lit(", coalesce(json_agg(")
				w.qualified("_r", c.As)
				w.lit("), '[]')::jsonb AS ")
				w.ident(c.As)
			}
			w.lit(" FROM (")
			w.read(e.Read, e)
			w.lit(") _r")
		case e.ToOne && len(e.Keys) > 0:
			w.lit(" (SELECT row_to_json(_r.*)::jsonb FROM (SELECT")
			w.columns(e.Read)
			w.lit(") _r) AS j")
			w.keys(e)
			w.rest(e.Read, e)
		case e.ToOne:
			w.lit(" row_to_json(_r.*)::jsonb AS j FROM (")
			w.read(e.Read, e)
			w.lit(") _r")
		default:
			w.lit(" json_agg(_r.*)::jsonb AS j FROM (")
			w.read(e.Read, e)
			w.lit(") _r")
		}
		w.lit(") ")
		w.embedAlias(e)
		w.lit(" ON ")
		if inner && !e.ToOne {
			w.present(e)
			w.lit(" IS NOT NULL")
		} else {
			w.lit("TRUE")
		}
	}
}

// keys writes what the parent is ordered by.
func (w *writer) keys(e *plan.Embed) {
	for i, o := range e.Keys {
		w.lit(", ")
		w.operand(o)
		w.lit(" AS ")
		w.key(i)
	}
}

// present writes what is null when there are no related rows. A row of nulls is a row.
func (w *writer) present(e *plan.Embed) {
	w.embedAlias(e)
	if e.Spread {
		w.lit(".n")
	} else {
		w.lit(".j")
	}
}

// related writes an embed as a column of its parent.
func (w *writer) related(e *plan.Embed) {
	if !e.ToOne {
		w.lit("coalesce(")
	}
	w.embedAlias(e)
	w.lit(".j")
	if !e.ToOne {
		w.lit(", '[]')")
	}
}

// tested writes the condition that there are related rows, or none. Where the embed is not joined, it is looked for.
func (w *writer) tested(c plan.Cond) {
	if w.unjoined {
		if c.None {
			w.lit("NOT ")
		}
		w.existing(c.Embed)
		return
	}
	w.present(c.Embed)
	if c.None {
		w.lit(" IS NOT DISTINCT FROM NULL")
	} else {
		w.lit(" IS DISTINCT FROM NULL")
	}
}

// invokeRows writes the call of a function that makes rows of its level's row.
func (w *writer) invokeRows(rows *plan.Rows) {
	w.qualified(rows.Function.Schema, rows.Function.Name)
	w.lit("(")
	if of := rows.Of; of.Source || w.sourced == of || slices.Contains(w.paged, of) { // a row of the relation's columns, but not of its type
		w.lit("ROW(")
		for i, c := range of.Relation.Columns {
			if i > 0 {
				w.lit(", ")
			}
			w.qualified(of.Alias, c.Name)
		}
		w.lit(")::")
		w.relation(of.Relation)
	} else {
		w.ident(of.Alias)
		w.lit(".*")
	}
	w.lit(")")
}

// through joins the junction of a many-to-many embed. It has a fence of its own.
func (w *writer) through(e *plan.Embed) {
	if e == nil || e.Through == nil {
		return
	}
	w.lit(" INNER JOIN ")
	w.relation(e.Through.Relation)
	w.lit(" AS ")
	w.ident(e.Through.Alias)
	and := w.conjunction(" ON ")
	for _, pair := range e.Through.Child {
		and()
		w.qualified(e.Through.Alias, pair.Parent)
		w.lit(" = ")
		w.qualified(e.Read.Alias, pair.Child)
	}
	w.fence(e.Through.Relation, e.Through.Alias, and)
}

// joined writes what ties related rows to their parent.
func (w *writer) joined(e *plan.Embed, and func()) {
	pairs, alias := e.On, e.Read.Alias
	if e.Through != nil {
		pairs, alias = e.Through.Parent, e.Through.Alias
	}
	for _, pair := range pairs {
		and()
		w.qualified(e.Parent, pair.Parent)
		w.lit(" = ")
		w.qualified(alias, pair.Child)
	}
}

// exists counts only parents that inner embeds leave in.
func (w *writer) exists(r *plan.Read, and func()) {
	for _, e := range r.Embeds {
		if e.Inner {
			and()
			w.existing(e)
		}
	}
}

func (w *writer) existing(e *plan.Embed) {
	w.lit("EXISTS (SELECT FROM ")
	w.from(e.Read)
	w.through(e)
	within := w.where(e.Read, e)
	w.exists(e.Read, within)
	w.lit(")")
}
