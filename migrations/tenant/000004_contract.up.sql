-- The shared-schema contract, as questions to the system catalogs. The migrator asks them in the transaction of a set's last file, so that a
-- database which would break it stays at the version before.

-- What files have allowed with "-- rowhouse:allow RULE WHY": the findings that were there when the file was applied, and no later ones.
create table rowhouse.allowances (
  rule   text not null,
  object text not null,
  reason text not null,
  why    text not null,
  primary key (rule, object, reason)
);
revoke all on rowhouse.allowances from public, anon, authenticated, service_role;

-- What no function that requests can call may do: change who they are, hold others up, reach out of the tenant's rows. Comments count too: a
-- text that tells them from code can be fooled.
create function rowhouse.is_hostile(body text) returns boolean
  language sql immutable
  set search_path = pg_catalog, pg_temp
  as $$
    select body ~* '\m(set_config|pg_sleep\w*|dblink\w*|lo_\w+|loread|lowrite|pg_terminate_backend|pg_cancel_backend|pg_(try_)?advisory_\w+|pg_notify|pg_read_\w*file|pg_ls_\w+)\M'
      or body ~* '(^|;|\mbegin|\mthen|\mloop|\melse|\$\$)\s*(set|reset|notify|listen|discard|load)\s+\w'
      or body ~* '''\s*(set|reset)\s+(local\s+|session\s+)?(role|session|rowhouse|search_path|row_security)\M'
  $$;

-- Whether a release of PostgreSQL is older than those that close the known holes in row-level security.
create function rowhouse.is_outdated(version int) returns boolean
  language sql immutable
  set search_path = pg_catalog, pg_temp
  as $$
    select version < 150014 or version between 160000 and 160009 or version between 170000 and 170005
  $$;

-- All findings, allowed ones too. Of those that may be allowed, none touches the fence; a warning closes no gate.
create function rowhouse.all_findings() returns table (rule text, object text, reason text, hint text, allowable boolean, warning boolean)
  language sql stable
  set search_path = pg_catalog, pg_temp
  set jit = off -- compiling it takes longer than running it
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
      select kind, case
        when kind = 'bind' then fence
        when rowhouse.engine() = 'citus' then format('(%s OR ((tenant_id IS NULL) AND rowhouse.is_host()))', fence)
        else format('(%s OR ((tenant_id IS NULL) AND ( SELECT rowhouse.is_host() AS is_host)))', fence) end as condition
      from (select pg_get_expr(polqual, polrelid) as fence from pg_policy
            where polrelid = 'rowhouse.settings'::regclass and polname = 'rh_tenant') p,
        unnest(array['bind', 'bind_optional']) kind
    ),
    request (role) as (values ('anon'::regrole::oid), ('authenticated'::regrole::oid), ('service_role'::regrole::oid)),
    -- Functions that a request can call, those of extensions left out: which extensions there may be is a rule of its own.
    functions as (
      select p.oid, p.oid::regprocedure::text as name, p.prosecdef, p.proconfig, p.proowner, p.provolatile,
        case when l.lanname in ('sql', 'plpgsql') and p.prosqlbody is not null then pg_get_function_sqlbody(p.oid) else p.prosrc end as body,
        rowhouse.is_exposed(p.pronamespace) and exists (select from request where has_function_privilege(role, p.oid, 'execute')) as exposed
      from pg_proc p join pg_language l on l.oid = p.prolang join pg_namespace n on n.oid = p.pronamespace
      where n.nspname not in ('rowhouse', 'rowhouse_guard', 'pg_catalog', 'information_schema')
        and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype = 'e')
    ),
    -- Expressions that run in requests to these tables, and where they stand.
    expressions as (
      select 'pg_attrdef'::regclass as class, d.oid, r.name, format('the default of column %s', a.attname) as place, pg_get_expr(d.adbin, d.adrelid) as text
      from relations r join pg_attrdef d on d.adrelid = r.oid join pg_attribute a on a.attrelid = r.oid and a.attnum = d.adnum
      union all
      select 'pg_policy'::regclass, p.oid, r.name, format('policy %s', p.polname), concat_ws(' ', pg_get_expr(p.polqual, r.oid), pg_get_expr(p.polwithcheck, r.oid))
      from relations r join pg_policy p on p.polrelid = r.oid where p.polname not in ('rh_tenant', 'rh_all')
      union all
      select 'pg_trigger'::regclass, t.oid, r.name, format('trigger %s', t.tgname), ''
      from relations r join pg_trigger t on t.tgrelid = r.oid and not t.tgisinternal
      union all
      select 'pg_constraint'::regclass, c.oid, r.name, format('constraint %s', c.conname), pg_get_constraintdef(c.oid)
      from relations r join pg_constraint c on c.conrelid = r.oid and c.contype = 'c'
    ),
    found (rule, object, reason, hint) as (
    select 'L1', name::text, 'declared as no kind of table', format('select rowhouse.bind(%L) or rowhouse.reference(%L)', name, name)
    from relations where kind is null and relkind in ('r', 'p')
    union all
    select 'L1', name::text, 'row-level security is not enabled and forced', format('select rowhouse.bind(%L)', name)
    from fenced where not (relrowsecurity and relforcerowsecurity)
    union all
    select 'L2', name::text, 'the fence rh_tenant is missing or was changed', format('select rowhouse.bind(%L)', name)
    from fenced f join printed p using (kind)
    where rowhouse.engine() <> 'citus'
      and not exists (select from pg_policy
                      where polrelid = f.oid and polname = 'rh_tenant' and not polpermissive and polcmd = '*' and polroles = '{0}'
                        and pg_get_expr(polqual, polrelid) = p.condition and pg_get_expr(polwithcheck, polrelid) = p.condition)
    union all
    -- On Citus there is no restrictive policy, so every one must hold the fence itself.
    select 'L2', f.name::text, format('policy %s does not hold the tenant''s condition', pol.polname), format('select rowhouse.bind(%L)', f.name)
    from fenced f join printed p using (kind) join pg_policy pol on pol.polrelid = f.oid
    where rowhouse.engine() = 'citus' and not (pol.polpermissive
      and (pol.polcmd = 'a' or rowhouse.holds(pg_get_expr(pol.polqual, f.oid), p.condition))
      and (pol.polcmd in ('r', 'd') or (pol.polcmd <> 'a' and pol.polwithcheck is null) or rowhouse.holds(pg_get_expr(pol.polwithcheck, f.oid), p.condition)))
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
    union all
    select 'L8', name, 'SECURITY DEFINER: it works with its owner''s rights, whoever calls it', 'make it security invoker, or allow it by name'
    from functions where prosecdef
    union all
    select 'L8', name, 'SECURITY DEFINER without a search_path of its own', format('alter function %s set search_path = pg_catalog, public, pg_temp', name)
    from functions where prosecdef and not exists (select from unnest(proconfig) c where c like 'search\_path=%')
    union all
    select 'L8', name, 'requests can call it, and it changes who they are, holds others up or reaches out', 'take the call out, or revoke execute from the request roles'
    from functions where exposed and rowhouse.is_hostile(body)
    union all
    select 'L8', f.name, format('it sets %s for its caller', split_part(c, '=', 1)), format('alter function %s reset %s', f.name, split_part(c, '=', 1))
    from functions f, unnest(f.proconfig) c
    where split_part(c, '=', 1) in ('role', 'session_authorization', 'row_security') or c like 'rowhouse.%'
    union all
    select 'L9', o.rolname, concat_ws(', ', case when o.rolcanlogin then 'can log in' end, case when o.rolsuper then 'is a superuser' end,
        case when o.rolbypassrls then 'passes row-level security by' end, case when o.rolcreaterole then 'can make roles' end) || ', and owns tenants'' tables',
      format('alter role %I nologin nosuperuser nobypassrls nocreaterole', o.rolname)
    from pg_roles o
    where o.oid in (select relowner from pg_class where oid in (select relation from rowhouse.tables))
      -- A Citus coordinator connects to its workers as the owner.
      and ((o.rolcanlogin and rowhouse.engine() <> 'citus') or o.rolsuper or o.rolbypassrls or o.rolcreaterole)
    union all
    select distinct 'L10', r.name::text, format('%s has grants on it', case a.grantee when 0 then 'everybody' else 'role ' || a.grantee::regrole::text end),
      format('revoke all on %s from %s: tenants'' rows are for anon, authenticated and service_role', r.name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
    from (select oid, name, relacl as acl from relations where kind in ('bind', 'bind_optional')
          union all
          select r.oid, r.name, attacl from relations r join pg_attribute on attrelid = r.oid where r.kind in ('bind', 'bind_optional') and attacl is not null) r
    join pg_class c using (oid), aclexplode(r.acl) a
    where a.grantee <> c.relowner and a.grantee not in (select role from request)
      and a.grantee is distinct from (select h.oid from rowhouse.identity i join pg_roles h on h.rolname = i.host_role)
    union all
    select 'L10', pg_describe_object(classid, objid, objsubid), format('belongs to %s, which answers requests', refobjid::regrole), 'make it in a migration, which runs as the database''s owner'
    from pg_shdepend
    where refclassid = 'pg_authid'::regclass and refobjid in (select role from request) and deptype = 'o'
      and dbid = (select oid from pg_database where datname = current_database())
    union all
    select 'L10', format('schema %I', n.nspname), format('%s may create in it', a.grantee::regrole), format('revoke create on schema %I from %s', n.nspname, a.grantee::regrole)
    from pg_namespace n, aclexplode(n.nspacl) a
    where a.privilege_type = 'CREATE' and a.grantee in (select role from request)
    union all
    select 'L10', q.role::regrole::text, format('is a member of %s', m.roleid::regrole), format('revoke %s from %s', m.roleid::regrole, q.role::regrole)
    from request q join pg_auth_members m on m.member = q.role join pg_roles g on g.oid = m.roleid and g.rolname like 'pg\_%'
    union all
    select 'L10', q.role::regrole::text, 'answers requests and has powers of its own', format('alter role %s nosuperuser nobypassrls nocreaterole nocreatedb noreplication', q.role::regrole)
    from request q join pg_roles o on o.oid = q.role where o.rolsuper or o.rolbypassrls or o.rolcreaterole or o.rolcreatedb or o.rolreplication
    union all
    select 'L11', format('database %I', d.datname), format('%s may %s in it', case a.grantee when 0 then 'everybody' else a.grantee::regrole::text end,
        case a.privilege_type when 'CREATE' then 'create schemas' else 'make temporary tables' end),
      format('revoke create, temporary on database %I from %s', d.datname, case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
    from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    where d.datname = current_database() and a.privilege_type in ('CREATE', 'TEMPORARY') and (a.grantee = 0 or a.grantee in (select role from request))
    union all
    select 'L14', format('large object %s', (select min(oid) from pg_largeobject_metadata)), format('%s large objects, which have no row-level security', count(*)),
      'keep the bytes in a bytea column, or outside the database'
    from pg_largeobject_metadata having count(*) > 0
    union all
    select 'L14', p.oid::regprocedure::text, format('%s may call it', case a.grantee when 0 then 'everybody' else a.grantee::regrole::text end),
      format('revoke execute on function %s from public, anon, authenticated, service_role', p.oid::regprocedure)
    from pg_proc p, aclexplode(p.proacl) a -- without an ACL they are as PostgreSQL made them: not exposed, and so out of requests' reach
    where p.pronamespace = 'pg_catalog'::regnamespace and p.proname like 'lo\_%' and (a.grantee = 0 or a.grantee in (select role from request))
    union all
    select 'L15', evtname::text, 'an event trigger that is not rowhouse''s', format('drop event trigger %I', evtname)
    from pg_event_trigger e
    where not exists (select from pg_depend where classid = 'pg_event_trigger'::regclass and objid = e.oid and deptype = 'e')
      and not (evtname = 'rowhouse_guard' and exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                                                      where p.oid = e.evtfoid and n.nspname = 'rowhouse_guard' and p.proname = 'watch'))
    union all
    select 'L16', extname::text, 'an extension that was not looked at', 'drop it, or allow it by name when nothing of it reaches around the policies'
    from pg_extension
    where extname <> all (array['plpgsql', 'citus', 'citus_columnar', 'btree_gin', 'btree_gist', 'citext', 'cube', 'dict_int', 'dict_xsyn', 'earthdistance',
      'fuzzystrmatch', 'hstore', 'intarray', 'isn', 'ltree', 'pg_trgm', 'pgcrypto', 'postgis', 'seg', 'tcn', 'tsm_system_rows', 'unaccent', 'uuid-ossp', 'vector'])
    union all
    select 'L17', format('PostgreSQL %s', current_setting('server_version')), 'older than the minor releases that close known holes in row-level security',
      'upgrade to 15.14, 16.10, 17.6 or later'
    where rowhouse.is_outdated(current_setting('server_version_num')::int)
    union all
    select distinct 'L18', e.name::text, format('%s calls %s, a volatile function of %s', e.place, p.oid::regprocedure, p.proowner::regrole), 'use a function of the database''s owner'
    from expressions e
    join pg_class t on t.oid = e.name
    join pg_depend d on d.classid = e.class and d.objid = e.oid and d.refclassid = 'pg_proc'::regclass
    join pg_proc p on p.oid = d.refobjid
    where p.provolatile = 'v' and p.proowner <> t.relowner
      and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype = 'e')
    union all
    select 'L18', e.name::text, format('%s changes who a request is, holds others up or reaches out', e.place), 'take the call out'
    from expressions e where rowhouse.is_hostile(e.text)
    )
    select rule, object, reason, hint,
      rule in ('L7', 'L8', 'L12', 'L13', 'L14', 'L16', 'L18') and reason not like '%without a search_path%' and reason not like 'rule %', rule = 'L17'
    from found
  $$;

-- What Citus would refuse or do otherwise. They are questions about tables and functions, so that they can be asked before there is one.
create function rowhouse.citus_findings() returns table (rule text, object text, reason text, hint text, warning boolean)
  language sql stable
  set search_path = pg_catalog, pg_temp
  set jit = off
  as $$
    with bound as (
      select c.oid, c.oid::regclass::text as name, c.reltype
      from pg_class c
      where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace <> 'rowhouse'::regnamespace
        and exists (select from rowhouse.tables t where t.relation = c.oid and t.kind <> 'reference')
    )
    select 'C1', b.name, format('policy %s holds a subselect, which Citus refuses', p.polname), 'copy the column that it looks up into the table', false
    from bound b join pg_policy p on p.polrelid = b.oid
    where p.polname <> 'rh_tenant' and concat(pg_get_expr(p.polqual, b.oid), pg_get_expr(p.polwithcheck, b.oid)) ~* '\mselect\M'
    union all
    select 'C2', b.name, format('policy %s is restrictive, which Citus drops without a word', p.polname), 'write its condition into the permissive policies', false
    from bound b join pg_policy p on p.polrelid = b.oid
    where p.polname <> 'rh_tenant' and not p.polpermissive
    union all
    select 'C3', b.name, format('trigger %s: Citus refuses triggers on distributed tables', t.tgname), 'do its work where the rows are written', false
    from bound b join pg_trigger t on t.tgrelid = b.oid and not t.tgisinternal
    union all
    select 'C4', b.name, format('numbers of column %s that a worker draws are beyond what JSON can hold', a.attname), 'use uuids', true
    from bound b join pg_attribute a on a.attrelid = b.oid and not a.attisdropped
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) like 'nextval(%'
    union all
    select 'C5', p.oid::regprocedure::text, 'a set function in SQL that is not volatile is inlined, and Citus cannot plan it over tenants'' tables', 'write it in plpgsql', false
    from pg_proc p join pg_language l on l.oid = p.prolang
    where l.lanname = 'sql' and p.proretset and p.provolatile <> 'v' and rowhouse.is_exposed(p.pronamespace)
      and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype = 'e')
    union all
    select 'C6', p.oid::regprocedure::text, format('a computed column of %s: on a shard the function has no such argument', b.name), 'write it into a view, or a generated column', false
    from bound b join pg_proc p on p.proargtypes[0] = b.reltype and p.pronargs = 1
    where rowhouse.is_exposed(p.pronamespace)
    union all
    select 'C7', b.name, 'optional tables become reference tables on Citus: each write goes to every node', 'keep such a table small', true
    from bound b join rowhouse.tables t on t.relation = b.oid and t.kind = 'bind_optional'
  $$;

-- What is wrong and was not allowed.
create function rowhouse.findings() returns table (rule text, object text, reason text, hint text, warning boolean)
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    select f.rule, f.object, f.reason, f.hint, f.warning
    from rowhouse.all_findings() f
    where not (f.allowable and exists (select from rowhouse.allowances a where (a.rule, a.object, a.reason) = (f.rule, f.object, f.reason)))
    union all
    select c.* from rowhouse.citus_findings() c where rowhouse.engine() = 'citus'
  $$;

-- Allows what a rule finds now. The migrator calls it for a file's "-- rowhouse:allow", in the file's transaction.
create function rowhouse.allow(rule text, why text) returns void
  language sql
  set search_path = pg_catalog, pg_temp
  as $$
    insert into rowhouse.allowances
    select f.rule, f.object, f.reason, allow.why from rowhouse.all_findings() f where f.rule = allow.rule and f.allowable
    on conflict do nothing
  $$;

create function rowhouse.check_contract() returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  f record;
begin
  select *, count(*) over () - 1 as others into f from rowhouse.findings() where not warning order by left(rule, 1) desc, substr(rule, 2)::int, object, reason limit 1;
  if f.rule is not null then
    raise exception '%: % (%)%', f.object, f.reason, f.rule, case when f.others > 0 then format(', and %s more', f.others) else '' end
      using errcode = '55000', hint = f.hint, detail = 'select * from rowhouse.findings() lists all';
  end if;
end
$$;

-- Judges the functions that the transaction has made. A migrator's connection cannot do so when they are made: the check of a body in SQL that
-- reads a bound table asks for its policies, which is an error there (row_security is off). What cannot be found by name passes: where
-- requests look for names is not known here.
create function rowhouse.check_functions() returns void
  language plpgsql
  set check_function_bodies = on
  set row_security = on
  as $$
declare
  f record;
begin
  for f in
    select p.oid, l.lanname
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
    where p.xmin::text = pg_catalog.pg_current_xact_id()::xid::text
      and l.lanname in ('sql', 'plpgsql') and p.oid >= 16384
  loop
    begin
      if f.lanname = 'sql' then
        perform pg_catalog.fmgr_sql_validator(f.oid);
      else
        perform pg_catalog.plpgsql_validator(f.oid);
      end if;
    exception when undefined_table or undefined_function or undefined_object or invalid_schema_name then
      null;
    end;
  end loop;
end
$$;

revoke all on all functions in schema rowhouse from public, anon, authenticated, service_role;
grant execute on function rowhouse.tenant_id(), rowhouse.is_host() to public;
