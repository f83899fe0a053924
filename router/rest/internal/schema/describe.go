package schema

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A Description is what a role may know of one schema beyond what requests are matched against.
type Description struct {
	Comment   string
	Relations []Described       // by name
	Functions map[string]string // the comment of each that the role may call
}

// A Described is a relation as documents tell of it.
type Described struct {
	Name, Comment string
	Columns       []DescribedColumn
}

// A DescribedColumn is a column as documents tell of it.
type DescribedColumn struct {
	Name, Comment string
	Type          string // without domains and modifiers
	NotNull       bool
	Default       string
	MaxLength     int // zero without one
	Enum          []string
}

const (
	describeSchema = `select coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace where nspname = $1`

	describeColumns = `
with recursive base as (
  select oid as typ, oid as below, typtype, typbasetype, typtypmod from pg_type
  union all
  select b.typ, t.oid, t.typtype, t.typbasetype, coalesce(nullif(b.typtypmod, -1), t.typtypmod)
  from base b join pg_type t on t.oid = b.typbasetype where b.typtype = 'd'
)
select c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''),
       a.attname, coalesce(col_description(c.oid, a.attnum), ''), format_type(b.below, null), a.attnotnull,
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       case when b.below in ('varchar'::regtype, 'bpchar'::regtype)
            then greatest(coalesce(nullif(a.atttypmod, -1), b.typtypmod) - 4, 0) else 0 end,
       array(select e.enumlabel::text from pg_enum e where e.enumtypid = b.below order by e.enumsortorder)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join base b on b.typ = a.atttypid and b.typtype <> 'd'
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum and a.attgenerated = ''
where n.nspname = $1
  and c.relkind in ('r', 'v', 'm', 'f', 'p')
  and not c.relispartition
  and (has_table_privilege(c.oid, 'select, insert, update, delete') or has_any_column_privilege(c.oid, 'select, insert, update'))
order by c.relname, a.attnum`

	describeFunctions = `
select p.proname, coalesce(obj_description(p.oid, 'pg_proc'), '')
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = $1
  and p.prokind = 'f'
  and has_function_privilege(p.oid, 'execute')
order by p.proname, p.pronargs desc`
)

// Describe reads the description of one schema as the role of q's transaction may know it. It sets search_path for
// the rest of the transaction.
func Describe(ctx context.Context, q Querier, schema string) (*Description, error) {
	d := &Description{Functions: map[string]string{}}
	var ignored string
	var fences, geo bool
	var r Described
	var c DescribedColumn
	var function, comment string
	steps := []func() error{
		func() error {
			return each(ctx, q, emptySearchPath, nil, []any{&ignored, &fences, &geo}, func() {})
		},
		func() error { return each(ctx, q, describeSchema, []any{schema}, []any{&d.Comment}, func() {}) },
		func() error {
			dest := []any{&r.Name, &r.Comment, &c.Name, &c.Comment, &c.Type, &c.NotNull, &c.Default, &c.MaxLength, &c.Enum}
			return each(ctx, q, describeColumns, []any{schema}, dest, func() {
				if last := len(d.Relations) - 1; last < 0 || d.Relations[last].Name != r.Name {
					d.Relations = append(d.Relations, Described{Name: r.Name, Comment: r.Comment})
				}
				last := &d.Relations[len(d.Relations)-1]
				last.Columns = append(last.Columns, c)
			})
		},
		func() error {
			return each(ctx, q, describeFunctions, []any{schema}, []any{&function, &comment}, func() { d.Functions[function] = comment })
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("describe schema: %w", err)
		}
	}
	return d, nil
}

// describedFor is how long a description is good: comments and privileges change without the schema changing.
const describedFor = time.Minute

// descriptions are those asked for since an entry was loaded, by schema and role.
type descriptions struct {
	mu    sync.Mutex // guards known
	known map[[2]string]described
}

type described struct {
	*Description
	at time.Time
}

// Describe is the description of a schema for a role; read is called when the last one is too old.
func (e *Entry) Describe(schema, role string, read func() (*Description, error)) (*Description, error) {
	key := [2]string{schema, role}
	e.descriptions.mu.Lock()
	known, ok := e.descriptions.known[key]
	e.descriptions.mu.Unlock()
	if ok && time.Since(known.at) < describedFor {
		return known.Description, nil
	}
	fresh, err := read()
	if err != nil {
		return nil, err
	}
	e.descriptions.mu.Lock()
	defer e.descriptions.mu.Unlock()
	if e.descriptions.known == nil || len(e.descriptions.known) >= 64 {
		e.descriptions.known = map[[2]string]described{}
	}
	e.descriptions.known[key] = described{fresh, time.Now()}
	return fresh, nil
}
