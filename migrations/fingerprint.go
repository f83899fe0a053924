package migrations

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Fingerprint is a hash over what a database's schemas look like: tables, columns, defaults, constraints, indexes, policies, row-level
// security, grants, views, functions, triggers, types. Two databases brought to one version by the same files have the same one; an
// index made by hand changes it. Neither oids nor the owner's name, the order of columns or any row is in it.
//
// The connection must be the owner's or a migrator's, outside a transaction. The system's schemas, the guard's (InstallGuard) and what
// belongs to extensions are left out.
func Fingerprint(ctx context.Context, conn *pgx.Conn) (string, error) {
	// One message, thus one transaction: without a search_path PostgreSQL prints every name qualified, whatever the session's is.
	// Compiling the query would take longer than running it.
	results, err := conn.PgConn().Exec(ctx, "set local search_path = ''; set local jit = off; "+fingerprintQuery).ReadAll()
	if err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	if len(results) != 3 || len(results[2].Rows) != 1 {
		return "", errors.New("fingerprint: no answer")
	}
	return string(results[2].Rows[0][0]), nil
}

const fingerprintQuery = `
with schemas as (
  select n.oid, n.nspname, n.nspacl, n.nspowner
  from pg_catalog.pg_namespace n
  where n.nspname not in ('information_schema', 'rowhouse_guard') and n.nspname not like 'pg\_%'
    and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e')
),
relations as (
  select c.*, s.nspname, c.oid::regclass::text as name
  from pg_catalog.pg_class c join schemas s on s.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
),
functions as (
  select p.*, p.oid::regprocedure::text as name
  from pg_catalog.pg_proc p join schemas s on s.oid = p.pronamespace
  where p.prokind in ('f', 'p')
    and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
),
-- The owner of an object is another role in every database.
grants as (
  select 'schema ' || nspname as object, nspowner as owner, coalesce(nspacl, acldefault('n', nspowner)) as acl from schemas
  union all
  select name, relowner, coalesce(relacl, acldefault(case relkind when 'S' then 's'::"char" else 'r' end, relowner)) from relations
  union all
  select r.name || '.' || a.attname, r.relowner, a.attacl
  from relations r join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attacl is not null and not a.attisdropped
  union all
  select name, proowner, coalesce(proacl, acldefault('f', proowner)) from functions
),
lines (line) as (
  select concat_ws(' ', 'relation', relkind, name, relpersistence, relrowsecurity, relforcerowsecurity, relreplident, reloptions::text,
                   pg_get_expr(relpartbound, oid), case when relkind = 'p' then pg_get_partkeydef(oid) end,
                   case when relkind in ('v', 'm') then pg_get_viewdef(oid) end)
  from relations
  union all
  select concat_ws(' ', 'column', r.name, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                   case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text end, pg_get_expr(d.adbin, d.adrelid))
  from relations r
  join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  join pg_catalog.pg_type t on t.oid = a.atttypid
  left join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
  where r.relkind <> 'S'
  union all
  select concat_ws(' ', 'constraint', r.name, c.conname, pg_get_constraintdef(c.oid), c.convalidated)
  from relations r join pg_catalog.pg_constraint c on c.conrelid = r.oid
  union all
  select concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisclustered, i.indisreplident)
  from relations r join pg_catalog.pg_index i on i.indrelid = r.oid
  union all
  select concat_ws(' ', 'policy', r.name, p.polname, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
                   'check', pg_get_expr(p.polwithcheck, p.polrelid), 'to',
                   (select string_agg(case o when 0 then 'public' else o::regrole::text end, ',' order by o::regrole::text) from unnest(p.polroles) o))
  from relations r join pg_catalog.pg_policy p on p.polrelid = r.oid
  union all
  select concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid), t.tgenabled)
  from relations r join pg_catalog.pg_trigger t on t.tgrelid = r.oid and not t.tgisinternal
  union all
  select concat_ws(' ', 'sequence', r.name, format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)
  from relations r join pg_catalog.pg_sequence s on s.seqrelid = r.oid
  union all
  select concat_ws(' ', 'function', pg_get_functiondef(oid)) from functions
  union all
  select concat_ws(' ', 'type', t.oid::regtype::text, t.typtype, t.typnotnull, t.typdefault,
                   (select string_agg(e.enumlabel, ',' order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = t.oid),
                   (select string_agg(pg_get_constraintdef(c.oid), ',' order by c.conname) from pg_catalog.pg_constraint c where c.contypid = t.oid))
  from pg_catalog.pg_type t join schemas s on s.oid = t.typnamespace
  where t.typtype in ('e', 'd')
    and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
  union all
  select concat_ws(' ', 'grant', g.object, case a.grantee when 0 then 'public' when g.owner then 'owner' else a.grantee::regrole::text end,
                   a.privilege_type, a.is_grantable)
  from grants g, pg_catalog.aclexplode(g.acl) a
)
select encode(sha256(convert_to(coalesce(string_agg(line, E'\n' order by line collate "C"), ''), 'UTF8')), 'hex') from lines`
