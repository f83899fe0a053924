package sqlgen

import (
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// Write writes the statement of an insert, update or delete.
func Write(p *plan.Write, form Form, tenant string) Statement {
	w := newWriter(tenant)
	w.lit("WITH _source AS (")
	switch {
	case p.Verb == plan.Insert:
		w.insert(p)
	case p.Verb == plan.Update && len(p.Columns) == 0:
		w.nothing(p)
	case p.Verb == plan.Update:
		w.update(p)
	default:
		w.lit("DELETE FROM ")
		w.relation(p.Relation)
		w.which(p)
	}
	if p.Verb != plan.Update || len(p.Columns) > 0 {
		w.lit(" RETURNING ")
		w.returned(p)
	}
	w.lit(") SELECT ")
	if form.Count {
		w.lit("count(*)")
	} else {
		w.lit("NULL::bigint")
	}
	w.result(form)
	if p.Conflict != nil {
		w.lit(", coalesce(nullif(current_setting('rest.inserted', true), ''), '0')::int, ")
	} else {
		w.lit(", NULL::int, ")
	}
	w.location(p)
	w.lit(" FROM (")
	w.changed(p)
	w.lit(") _t")
	return w.statement()
}

// which writes what rows an update or delete is for.
func (w *writer) which(p *plan.Write) {
	and := w.conjunction(" WHERE ")
	w.fence(p.Relation, p.Relation.Name.Name, and)
	w.unjoined = true
	w.conds(p.Where, and)
	w.unjoined = false
}

// changed reads the changed rows as if they were the relation.
func (w *writer) changed(p *plan.Write) {
	if p.Read == nil {
		w.lit("SELECT FROM _source")
		return
	}
	w.sourced = p.Read
	w.lit("SELECT")
	w.columns(p.Read)
	w.lit(" FROM _source AS ")
	w.ident(p.Read.Alias)
	w.laterals(p.Read, false)
	w.groups(p.Read)
	w.order(p.Read.Order)
}

func (w *writer) returned(p *plan.Write) {
	name := p.Relation.Name.Name
	if !p.All && len(p.Returned) == 0 {
		w.lit("1")
		return
	}
	if p.All {
		w.ident(name)
		w.lit(".*")
	}
	for i, column := range p.Returned {
		if i > 0 || p.All {
			w.lit(", ")
		}
		w.qualified(name, column)
	}
}

// nothing is an update that sets nothing: no row, but the relation and its columns are still asked for.
func (w *writer) nothing(p *plan.Write) {
	w.lit("SELECT ")
	w.returned(p)
	w.lit(" FROM ")
	w.relation(p.Relation)
	w.lit(" WHERE false")
}

// location writes the key of the one new row.
func (w *writer) location(p *plan.Write) {
	if len(p.Location) == 0 {
		w.lit("NULL::text")
		return
	}
	w.lit("(SELECT json_build_array(")
	for i, column := range p.Location {
		if i > 0 {
			w.lit(", ")
		}
		w.qualified("_source", column)
		w.lit("::text")
	}
	w.lit(") FROM _source LIMIT 1)")
}

func (w *writer) insert(p *plan.Write) {
	w.lit("INSERT INTO ")
	w.relation(p.Relation)
	switch {
	case len(p.Columns) == 0 && !p.Body.Array:
		w.lit(" DEFAULT VALUES")
	case len(p.Columns) == 0:
		w.lit(" SELECT FROM json_array_elements(")
		w.arg(p.Body.Raw)
		w.lit(") _body")
	default:
		w.lit(" (")
		for i, c := range p.Columns {
			if i > 0 {
				w.lit(", ")
			}
			w.ident(c.Name)
		}
		w.lit(") SELECT ")
		for i, c := range p.Columns {
			if i > 0 {
				w.lit(", ")
			}
			w.bodyColumn(p, c)
		}
		w.lit(" FROM ")
		if p.Put {
			w.lit("(SELECT * FROM ")
		}
		w.body(p)
		if p.Put {
			w.lit(" LIMIT 1) _body")
		}
	}
	w.conflict(p)
}

// conflict turns an insert into an upsert. Rows that were inserted and not updated are counted in a setting, raised
// before each row and lowered when it turns out to be there: xmax, which would tell, is not to be had from views
// and partitioned tables.
func (w *writer) conflict(p *plan.Write) {
	if p.Conflict == nil {
		return
	}
	and := w.conjunction(" WHERE ")
	w.conds(p.Where, and) // of PUT; other inserts have none
	if len(p.Columns) > 0 {
		and()
		w.lit("set_config('rest.inserted', (coalesce(nullif(current_setting('rest.inserted', true), ''), '0')::int + 1)::text, true) <> ''")
	}
	w.lit(" ON CONFLICT (")
	for i, column := range p.Conflict.Columns {
		if i > 0 {
			w.lit(", ")
		}
		w.ident(column)
	}
	if !p.Conflict.Merge {
		w.lit(") DO NOTHING")
		return
	}
	w.lit(") DO UPDATE SET ")
	for i, c := range p.Columns {
		if i > 0 {
			w.lit(", ")
		}
		w.ident(c.Name)
		w.lit(" = EXCLUDED.")
		w.ident(c.Name)
	}
	w.lit(" WHERE set_config('rest.inserted', (coalesce(nullif(current_setting('rest.inserted', true), ''), '0')::int - 1)::text, true) <> ''")
	w.fence(p.Relation, p.Relation.Name.Name, func() { w.lit(" AND ") })
}

func (w *writer) update(p *plan.Write) {
	w.lit("UPDATE ")
	w.relation(p.Relation)
	w.lit(" SET ")
	for i, c := range p.Columns {
		if i > 0 {
			w.lit(", ")
		}
		w.ident(c.Name)
		w.lit(" = ")
		w.bodyColumn(p, c)
	}
	w.lit(" FROM (SELECT * FROM ")
	w.body(p)
	w.lit(" LIMIT 1) _body")
	w.which(p)
}

// bodyColumn is a value of the body. A tenant_id of null counts as absent; any but the tenant's own is refused by
// row-level security.
func (w *writer) bodyColumn(p *plan.Write, c *schema.Column) {
	fence := p.Relation.Scoped && c.Name == schema.TenantColumn && w.tenant != ""
	if fence {
		w.lit("coalesce(")
	}
	if c.FromJSON != "" {
		w.catalog(c.FromJSON)
		w.lit("(")
	}
	w.qualified("_body", c.Name)
	if c.FromJSON != "" {
		w.lit(")")
	}
	if fence {
		w.lit(", ")
		w.text(w.tenant)
		w.lit(")")
	}
}

// body makes rows of the JSON body: one parameter, however many rows and columns it holds.
func (w *writer) body(p *plan.Write) {
	switch {
	case p.Defaults && p.Body.Array:
		w.lit("jsonb_to_recordset((SELECT coalesce(jsonb_agg(")
		w.defaults(p)
		w.lit(" || _element), '[]') FROM jsonb_array_elements(")
		w.arg(p.Body.Raw)
		w.lit(") _element))")
	case p.Defaults:
		w.lit("jsonb_to_record(")
		w.defaults(p)
		w.lit(" || ")
		w.arg(p.Body.Raw)
		w.lit(")")
	case p.Body.Array:
		w.lit("json_to_recordset(")
		w.arg(p.Body.Raw)
		w.lit(")")
	default:
		w.lit("json_to_record(")
		w.arg(p.Body.Raw)
		w.lit(")")
	}
	w.lit(" AS _body(")
	for i, c := range p.Columns {
		if i > 0 {
			w.lit(", ")
		}
		w.ident(c.Name)
		w.lit(" ")
		if c.FromJSON != "" {
			w.lit("json")
		} else {
			w.catalog(c.Type)
		}
	}
	w.lit(")")
}

// defaults is an object of the columns' defaults. They are chained in pairs because a function takes no more than
// a hundred arguments.
func (w *writer) defaults(p *plan.Write) {
	w.lit("'{}'::jsonb")
	for _, c := range p.Columns {
		if c.Default == "" {
			continue
		}
		w.lit(" || jsonb_build_object(")
		w.quote(c.Name)
		w.lit(", ")
		w.catalog(c.Default)
		w.lit(")")
	}
}
