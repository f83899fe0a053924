package schema

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	"github.com/jackc/pgx/v5"
)

// The catalog is asked in few set-based queries, with an empty search_path so that names do not depend on the
// session. OIDs join the answers here and go no further.
const (
	emptySearchPath = `select set_config('search_path', '', true), to_regclass('rowhouse.tables') is not null,
       exists (select from pg_proc where proname = 'st_asgeojson' and proargtypes[0] = 'record'::regtype)`

	selectRelations = `
select c.oid::text, n.nspname, c.relname, c.relkind in ('v', 'm'),
       pg_relation_is_updatable(c.oid, true),
       c.relkind = 'v' or exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal),
       exists (select from pg_rewrite r
               join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_proc'::regclass
               join pg_proc p on p.oid = d.refobjid
               where r.ev_class = c.oid and p.provolatile = 'v')
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any($1::text[])
  and c.relkind in ('r', 'v', 'm', 'f', 'p')
  and not c.relispartition
order by n.nspname, c.relname`

	// Implicit casts by function between a domain and what clients write.
	selectCasts = `
select format_type(d.oid, null), (c.castsource = d.oid)::text, case when c.castsource = d.oid then c.casttarget else c.castsource end::regtype::text,
       c.castfunc::regproc::text
from pg_cast c
join pg_type d on d.typtype = 'd' and d.oid in (c.castsource, c.casttarget)
where c.castcontext = 'i'
  and c.castmethod = 'f'
order by 1, 2, 3`

	selectColumns = `
with recursive domain as (
  select oid as typ, typbasetype as below from pg_type where typtype = 'd'
  union all
  select d.typ, t.typbasetype from domain d join pg_type t on t.oid = d.below where t.typtype = 'd'
), base as (
  select d.typ, t.typname from domain d join pg_type t on t.oid = d.below where t.typtype <> 'd'
)
select c.oid::text, a.attnum::int, a.attname, format_type(a.atttypid, a.atttypmod), coalesce(b.typname, t.typname), a.attnotnull,
       coalesce(
         case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
         (select format('nextval(%L::regclass)', s.objid::regclass) from pg_depend s
          where a.attidentity <> '' and s.classid = 'pg_class'::regclass and s.refclassid = 'pg_class'::regclass
            and s.refobjid = c.oid and s.refobjsubid = a.attnum and s.deptype = 'i'),
         case when a.attgenerated = '' and t.typtype = 'd' then t.typdefault end,
         '')
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_type t on t.oid = a.atttypid
left join base b on b.typ = a.atttypid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where (n.nspname = any($1::text[]) and not c.relispartition or c.oid = any($2::text[]::oid[]))
  and c.relkind in ('r', 'v', 'm', 'f', 'p')
  and a.attnum > 0
  and not a.attisdropped
order by n.nspname, c.relname, a.attnum`

	selectConstraints = `
select k.conname, k.contype::text, k.conrelid::text, k.confrelid::text,
       array(select a.attname::text from unnest(k.conkey) with ordinality u(num, i) join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.num order by u.i),
       array(select a.attname::text from unnest(k.confkey) with ordinality u(num, i) join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.num order by u.i)
from pg_constraint k
join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
where (n.nspname = any($1::text[]) or c.oid = any($2::text[]::oid[]))
  and k.contype in ('p', 'u', 'f')
  and k.conparentid = 0
order by n.nspname, c.relname, k.conname`

	// A view is scoped when it shows a tenant_id and reads that of a bound table.
	selectScoped = `
select t.relation::oid::text
from rowhouse.tables t
where t.kind <> 'reference'
union
select r.ev_class::text
from rowhouse.tables t
join pg_attribute a on a.attrelid = t.relation and a.attname = 'tenant_id'
join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = t.relation and d.refobjsubid = a.attnum
join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
join pg_attribute v on v.attrelid = r.ev_class and v.attname = 'tenant_id' and v.atttypid = 'uuid'::regtype
where t.kind <> 'reference'
order by 1`

	selectVisible = `
select false, n.nspname, c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any($1::text[])
  and c.relkind in ('r', 'v', 'm', 'f', 'p')
  and has_schema_privilege(n.oid, 'usage')
  and has_table_privilege(c.oid, 'select, insert, update, delete')
union
select true, n.nspname, p.proname
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = any($1::text[])
  and has_schema_privilege(n.oid, 'usage')
  and has_function_privilege(p.oid, 'execute')`
)

// Querier is a transaction, as far as reading the catalog needs one.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Load reads the exposed schemas of the database that q is connected to. Views are looked through as long as they
// stand in these or the extra schemas. It sets search_path for the rest of q's transaction.
func Load(ctx context.Context, q Querier, schemas, extra []string) (*Schema, error) {
	l := &loader{
		ctx: ctx, q: q, extra: extra, digest: md5.New(), byOID: map[string]*Relation{}, rules: map[string][]origin{}, columnNames: map[origin]string{},
		schema: &Schema{
			names: slices.Clone(schemas), relations: map[Name]*Relation{}, inSchema: map[string][]string{},
			functions: map[Name][]*Function{}, functionNames: map[string][]string{},
		},
	}
	steps := []func() error{l.prepare, l.relations, l.viewRules, l.casts, l.columns, l.constraints, l.scoped, l.keys, l.functions, l.mediaHandlers}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read schema: %w", err)
		}
	}
	l.digest.Sum(l.schema.digest[:0])
	return l.schema, nil
}

// A Visible is what a role may do anything with.
type Visible struct{ Relations, Functions map[Name]bool }

// ReadVisible reads what the role of q's transaction may do anything with.
func ReadVisible(ctx context.Context, q Querier, schemas []string) (Visible, error) {
	v := Visible{Relations: map[Name]bool{}, Functions: map[Name]bool{}}
	var n Name
	var function bool
	err := each(ctx, q, selectVisible, []any{schemas}, []any{&function, &n.Schema, &n.Name}, func() {
		if function {
			v.Functions[n] = true
		} else {
			v.Relations[n] = true
		}
	})
	if err != nil {
		return v, fmt.Errorf("read privileges: %w", err)
	}
	return v, nil
}

type loader struct {
	ctx    context.Context
	q      Querier
	schema *Schema
	byOID  map[string]*Relation
	digest hash.Hash
	fences bool // schema rowhouse has its register of tables

	extra       []string
	views       []string            // OIDs of the exposed ones, in order
	rules       map[string][]origin // of each view looked through, where its columns come from
	hidden      []string            // OIDs of what exposed views show without being exposed
	columnNames map[origin]string
	byDomain    map[SQL]Casts
	foreign     []*ForeignKey // of all tables, exposed or only shown by views
}

func each(ctx context.Context, q Querier, sql string, args, dest []any, row func()) error {
	// One-off statements: nothing of them should stay prepared on the connection.
	rows, err := q.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, dest, func() error { row(); return nil })
	return err
}

// note adds texts to the digest, each with its length, so that no two rows read alike.
func (l *loader) note(kind byte, texts ...string) {
	l.digest.Write([]byte{kind})
	for _, t := range texts {
		l.digest.Write(binary.AppendUvarint(nil, uint64(len(t))))
		l.digest.Write([]byte(t))
	}
}

func (l *loader) noteFlags(flags ...bool) {
	for _, f := range flags {
		l.digest.Write([]byte{map[bool]byte{false: 0, true: 1}[f]})
	}
}

func (l *loader) prepare() error {
	var ignored string
	return each(l.ctx, l.q, emptySearchPath, nil, []any{&ignored, &l.fences, &l.schema.GeoJSON}, func() { l.noteFlags(l.schema.GeoJSON) })
}

func (l *loader) relations() error {
	var oid string
	var n Name
	var view, triggers, volatile bool
	var events int32
	return each(l.ctx, l.q, selectRelations, []any{l.schema.names}, []any{&oid, &n.Schema, &n.Name, &view, &events, &triggers, &volatile}, func() {
		const update, insert, del = 1 << 2, 1 << 3, 1 << 4 // as pg_relation_is_updatable counts its events
		r := &Relation{
			Name: n, View: view, Triggers: triggers, Volatile: volatile,
			Insertable: events&insert != 0, Updatable: events&update != 0, Deletable: events&del != 0,
		}
		l.byOID[oid], l.schema.relations[n] = r, r
		if view {
			l.views = append(l.views, oid)
		}
		l.schema.inSchema[n.Schema] = append(l.schema.inSchema[n.Schema], n.Name)
		l.note('r', n.Schema, n.Name, fmt.Sprint(view, events, triggers, volatile))
	})
}

func (l *loader) casts() error {
	l.byDomain = map[SQL]Casts{}
	var domain, out, other, function string
	return each(l.ctx, l.q, selectCasts, nil, []any{&domain, &out, &other, &function}, func() {
		c := l.byDomain[SQL(domain)]
		switch {
		case out == "true" && other == "json":
			c.ToJSON = SQL(function)
		case out == "false" && other == "json":
			c.FromJSON = SQL(function)
		case out == "false" && other == "text":
			c.FromText = SQL(function)
		}
		l.byDomain[SQL(domain)] = c
		l.note('d', domain, out, other, function)
	})
}

func (l *loader) columns() error {
	var oid, name, typ, base, def string
	var num int
	var notNull bool
	return each(l.ctx, l.q, selectColumns, []any{l.schema.names, l.hidden}, []any{&oid, &num, &name, &typ, &base, &notNull, &def}, func() {
		r := l.byOID[oid]
		if r == nil { // made between the two queries
			return
		}
		l.columnNames[origin{oid, num}] = name
		r.Columns = append(r.Columns, Column{Name: name, Type: SQL(typ), Base: base, NotNull: notNull, Default: SQL(def), Casts: l.byDomain[SQL(typ)]})
		l.note('c', r.Schema, r.Name.Name, name, typ, base, def, fmt.Sprint(notNull))
	})
}

func (l *loader) constraints() error {
	var name, kind, from, to string
	var columns, targets []string
	return each(l.ctx, l.q, selectConstraints, []any{l.schema.names, l.hidden}, []any{&name, &kind, &from, &to, &columns, &targets}, func() {
		r, target := l.byOID[from], l.byOID[to]
		if r == nil {
			return
		}
		switch {
		case kind == "p":
			r.Key = columns
		case kind == "u":
			r.Uniques = append(r.Uniques, columns)
		case target != nil: // keys to what nobody sees lead nowhere
			l.foreign = append(l.foreign, &ForeignKey{Constraint: name, From: r, To: target, Columns: columns, Targets: targets})
			l.note('t', target.Schema, target.Name.Name)
		}
		l.note('k', append(append([]string{r.Schema, r.Name.Name, name, kind, fmt.Sprint(len(columns))}, columns...), targets...)...)
	})
}

func (l *loader) scoped() error {
	if !l.fences {
		return nil
	}
	var oid string
	return each(l.ctx, l.q, selectScoped, nil, []any{&oid}, func() {
		if r := l.byOID[oid]; r != nil {
			r.Scoped = true
			l.note('s', r.Schema, r.Name.Name)
		}
	})
}
