-- What stands in every database that holds tenants, shared and dedicated alike: the same schema in both, so that a request that reached
-- the wrong database sees nothing there.

create schema if not exists rowhouse;
revoke all on schema rowhouse from public;
-- Policies and defaults call rowhouse.tenant_id() as whoever runs the query; without USAGE they could not.
grant usage on schema rowhouse to public;

-- Before PostgreSQL 15 everybody could create in public, and databases that were upgraded still say so: a function or table made there
-- would be found before ours (CVE-2018-1058). Where the schema is not ours we can only insist.
do $$
declare
  owner oid := (select nspowner from pg_catalog.pg_namespace where nspname = 'public');
begin
  if owner is null then
    return; -- a database without it has nothing to close
  end if;
  if pg_catalog.pg_has_role(owner, 'usage') then
    revoke create on schema public from public;
    grant usage on schema public to anon, authenticated, service_role;
  end if;
  if exists (select
             from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
             where n.nspname = 'public' and a.grantee = 0 and a.privilege_type = 'CREATE') then
    raise exception 'everybody may create in schema public'
      using errcode = '42501', hint = 'revoke create on schema public from public, as its owner';
  end if;
  if not pg_catalog.has_schema_privilege('public', 'create') then
    raise exception 'role % may not create in schema public', current_user
      using errcode = '42501', hint = pg_catalog.format('alter schema public owner to %I', current_user);
  end if;
end
$$;

-- Which database this is. Each new connection of a router compares it with what the catalog says before it serves: swapped connection
-- strings and restored backups answer an error, not another tenant's rows. The row is written by whoever makes the database, because a
-- template must have none.
create table rowhouse.identity (
  singleton   boolean primary key default true check (singleton),
  database_id uuid not null,
  catalog_id  uuid not null,
  -- The login that may work for the host here; null: none may. See rowhouse.is_host().
  host_role   name,
  created_at  timestamptz not null default now()
);
revoke all on rowhouse.identity from public, anon, authenticated, service_role;
grant select on rowhouse.identity to public;

-- The tenant of this transaction, or null. After a transaction that set it, the setting is '' on that connection rather than absent;
-- "host" is the host's word and no tenant. Anything else that is no uuid is an error: fail closed.
--
-- The body is parsed now (RETURN, not a string), so no search_path of a caller can change what it means, and a SET clause, which
-- would forbid inlining, is not needed.
create function rowhouse.tenant_id() returns uuid
  language sql stable parallel safe
  return nullif(nullif(current_setting('rowhouse.tenant_id', true), ''), 'host')::uuid;

-- Whether the host works here: the word alone can be set by anybody, so the login must be the host's as well. The login cannot be
-- forged: SET ROLE does not change session_user.
create function rowhouse.is_host() returns boolean
  language sql stable parallel safe
  return current_setting('rowhouse.tenant_id', true) = 'host'
    and exists (select from rowhouse.identity i where i.host_role = session_user);

revoke all on function rowhouse.tenant_id(), rowhouse.is_host() from public;
grant execute on function rowhouse.tenant_id(), rowhouse.is_host() to public;

-- The ledger in the columns of stock golang-migrate, so that its command can read a database's version. It cannot migrate through it:
-- its TRUNCATE fails on a view, before anything else runs.
create view rowhouse.schema_migrations with (security_invoker = true) as
  select version, state <> 'applied' as dirty
  from rowhouse.migrations
  order by version desc
  limit 1;
revoke all on rowhouse.schema_migrations from public, anon, authenticated, service_role;
