package sqlgen

import (
	"strconv"

	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
)

// embedAlias writes what the i-th embed of a level is called beside its parent.
func (w *writer) embedAlias(i int) {
	w.lit("_e")
	w.sql.WriteString(strconv.Itoa(i))
}

// laterals joins each embed's rows to its parent, as one JSON value.
func (w *writer) laterals(r *plan.Read) {
	for i, e := range r.Embeds {
		if e.Silent && !e.Inner {
			continue
		}
		if e.Inner {
			w.lit(" INNER JOIN LATERAL (SELECT ")
		} else {
			w.lit(" LEFT JOIN LATERAL (SELECT ")
		}
		if e.ToOne {
			w.lit("row_to_json(_r.*)::jsonb AS j FROM (")
		} else {
			w.lit("json_agg(_r.*)::jsonb AS j FROM (")
		}
		w.read(e.Read, e)
		w.lit(") _r) ")
		w.embedAlias(i)
		if e.Inner && !e.ToOne {
			w.lit(" ON ")
			w.embedAlias(i)
			w.lit(".j IS NOT NULL")
		} else {
			w.lit(" ON TRUE")
		}
	}
}

// related writes an embed as a column of its parent.
func (w *writer) related(r *plan.Read, e *plan.Embed) {
	for i := range r.Embeds {
		if r.Embeds[i] != e {
			continue
		}
		if !e.ToOne {
			w.lit("coalesce(")
		}
		w.embedAlias(i)
		w.lit(".j")
		if !e.ToOne {
			w.lit(", '[]')")
		}
	}
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
		if !e.Inner {
			continue
		}
		and()
		w.lit("EXISTS (SELECT FROM ")
		w.from(e.Read)
		w.through(e)
		within := w.where(e.Read, e)
		w.exists(e.Read, within)
		w.lit(")")
	}
}
