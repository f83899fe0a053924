-- The shared-schema contract, as questions to the system catalogs. The migrator asks them in the transaction of a set's last file, so that a
-- database which would break it stays at the version before.

create function rowhouse.findings() returns table (rule text, object text, reason text, hint text)
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    with relations as (
      select c.oid, c.oid::regclass as name, c.relkind, c.relnamespace, c.relrowsecurity, c.relforcerowsecurity, c.relacl, c.reloptions,
        c.relispartition, rowhouse.kind_of(c.oid) as kind
      from pg_class c
      where c.relkind in ('r', 'p', 'v', 'm', 'f')
        and (rowhouse.is_exposed(c.relnamespace) or c.oid in (select relation from rowhouse.tables))
        and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e')
    ),
    fenced as (
      select r.*, a.attnum, a.atttypid, a.attnotnull, pg_get_expr(d.adbin, d.adrelid) as default_value
      from relations r
      left join pg_attribute a on a.attrelid = r.oid and a.attname = 'tenant_id' and not a.attisdropped
      left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
      where r.kind in ('bind', 'bind_optional')
    ),
    -- How PostgreSQL prints the fence, taken from a table of ours, so that no version's way of printing is written down here.
    printed as (
      select kind, case kind when 'bind' then fence
        else format('(%s OR ((tenant_id IS NULL) AND ( SELECT rowhouse.is_host() AS is_host)))', fence) end as condition
      from (select pg_get_expr(polqual, polrelid) as fence from pg_policy
            where polrelid = 'rowhouse.settings'::regclass and polname = 'rh_tenant') p,
        unnest(array['bind', 'bind_optional']) kind
    )
    select 'L1', name::text, 'declared as no kind of table', format('select rowhouse.bind(%L) or rowhouse.reference(%L)', name, name)
    from relations where kind is null and relkind in ('r', 'p')
    union all
    select 'L1', name::text, 'row-level security is not enabled and forced', format('select rowhouse.bind(%L)', name)
    from fenced where not (relrowsecurity and relforcerowsecurity)
    union all
    select 'L2', name::text, 'the fence rh_tenant is missing or was changed', format('select rowhouse.bind(%L)', name)
    from fenced f join printed p using (kind)
    where not exists (select from pg_policy
                      where polrelid = f.oid and polname = 'rh_tenant' and not polpermissive and polcmd = '*' and polroles = '{0}'
                        and pg_get_expr(polqual, polrelid) = p.condition and pg_get_expr(polwithcheck, polrelid) = p.condition)
    union all
    select 'L2', name::text, 'no permissive policy: nobody sees a row', format('select rowhouse.bind(%L)', name)
    from fenced f where not exists (select from pg_policy where polrelid = f.oid and polpermissive)
    union all
    select 'L3', name::text, 'tenant_id is not what rowhouse.' || kind || ' made it', format('select rowhouse.bind(%L)', name)
    from fenced
    where attnum is null or atttypid <> 'uuid'::regtype or default_value is distinct from 'rowhouse.tenant_id()'
      or attnotnull <> (kind = 'bind')
    union all
    select 'L4', f.name::text, format('constraint %s does not hold tenant_id', con.conname), format('select rowhouse.bind(%L)', f.name)
    from fenced f join pg_constraint con on con.conrelid = f.oid
    where con.contype in ('p', 'u', 'x') and not f.attnum = any (con.conkey) and not (f.kind = 'bind_optional' and con.contype = 'p')
    union all
    select 'L5', f.name::text, format('foreign key %s does not hold tenant_id on both sides', con.conname), format('select rowhouse.bind(%L)', f.name)
    from fenced f join pg_constraint con on con.conrelid = f.oid and con.contype = 'f'
    where rowhouse.kind_of(con.confrelid) is distinct from 'reference'
      and not exists (select from unnest(con.conkey, con.confkey) k (c, r)
                      join pg_attribute p on p.attrelid = con.confrelid and p.attnum = k.r and p.attname = 'tenant_id'
                      where k.c = f.attnum)
    union all
    select 'L6', name::text, 'a view that shows what its owner may see', format('alter view %s set (security_invoker = true)', name)
    from relations
    where relkind = 'v' and not coalesce(reloptions && array['security_invoker=true', 'security_invoker=on', 'security_invoker=1',
                                                            'security_invoker=yes'], false)
    union all
    select 'L7', name::text, case relkind when 'm' then 'a materialised view' else 'a foreign table' end || ' has no row-level security',
      'move it to a schema that the request roles cannot use'
    from relations where relkind in ('m', 'f')
    union all
    select 'L7', r.name::text, format('rule %s can rewrite a query past the policies', w.rulename), 'use a trigger'
    from relations r join pg_rewrite w on w.ev_class = r.oid where r.relkind in ('r', 'p')
    union all
    select 'L10', r.name::text, format('%s may %s, which row-level security does not see', case a.grantee when 0 then 'public' else a.grantee::regrole::text end,
                                       lower(a.privilege_type)), format('select rowhouse.bind(%L)', r.name)
    from relations r, aclexplode(r.relacl) a
    where a.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER')
      and a.grantee in (0, 'anon'::regrole::oid, 'authenticated'::regrole::oid, 'service_role'::regrole::oid)
    union all
    select 'L10', r.name::text, format('%s may change rows common to all tenants', case a.grantee when 0 then 'public' else a.grantee::regrole::text end),
      format('select rowhouse.reference(%L)', r.name)
    from relations r, aclexplode(r.relacl) a
    where r.kind = 'reference' and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
      and a.grantee in (0, 'anon'::regrole::oid, 'authenticated'::regrole::oid, 'service_role'::regrole::oid)
    union all
    select 'L11', 'schema public', 'everybody may create in it', 'revoke create on schema public from public'
    from pg_namespace n, aclexplode(n.nspacl) a
    where n.nspname = 'public' and a.grantee = 0 and a.privilege_type = 'CREATE'
    union all
    select 'L12', c.oid::regclass::text, 'a sequence tells how much other tenants make', format('revoke select, update on sequence %s from public, anon, authenticated, service_role', c.oid::regclass)
    from pg_class c, aclexplode(c.relacl) a
    where c.relkind = 'S' and rowhouse.is_exposed(c.relnamespace) and a.privilege_type in ('SELECT', 'UPDATE')
      and a.grantee in (0, 'anon'::regrole::oid, 'authenticated'::regrole::oid, 'service_role'::regrole::oid)
    union all
    select 'L13', f.name::text, format('index %s does not lead with tenant_id', i.indexrelid::regclass), format('select rowhouse.bind(%L)', f.name)
    from fenced f join pg_index i on i.indrelid = f.oid
    join pg_class ic on ic.oid = i.indexrelid join pg_am am on am.oid = ic.relam
    where am.amname = 'btree' and i.indkey[0] <> f.attnum and not (f.kind = 'bind_optional' and i.indisprimary)
  $$;

create function rowhouse.check_contract() returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  f record;
begin
  select *, count(*) over () - 1 as others into f from rowhouse.findings() order by substr(rule, 2)::int, object, reason limit 1;
  if f.rule is not null then
    raise exception '%: % (%)%', f.object, f.reason, f.rule, case when f.others > 0 then format(', and %s more', f.others) end
      using errcode = '55000', hint = f.hint, detail = 'select * from rowhouse.findings() lists all';
  end if;
end
$$;

revoke all on function rowhouse.findings(), rowhouse.check_contract() from public, anon, authenticated, service_role;
