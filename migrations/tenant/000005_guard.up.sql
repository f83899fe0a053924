-- What refuses, at the end of a transaction, a table that was made and not declared. The migrator asks the same of each file; this is for
-- everybody else who may make tables. It is a deferred trigger because a table is made before it can be bound.
--
-- The event trigger that writes here needs a superuser to install it (migrations.InstallGuard); without it nothing is ever written.

create table rowhouse.made_tables (
  relation oid primary key
);
revoke all on rowhouse.made_tables from public, anon, authenticated, service_role;

create function rowhouse.judge_made_table() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  c pg_class;
  kind text;
begin
  delete from rowhouse.made_tables where relation = new.relation;
  select * into c from pg_class where oid = new.relation;
  if c.oid is null or not rowhouse.is_exposed(c.relnamespace) then
    return null; -- dropped again, or moved out of reach
  end if;
  kind := rowhouse.kind_of(c.oid);
  if kind is null then
    raise exception 'table % was not declared', c.oid::regclass using errcode = '55000',
      hint = format('in the same transaction, select rowhouse.bind(%L) makes its rows the tenants'', rowhouse.reference(%L) common to all', c.oid::regclass, c.oid::regclass);
  elsif kind <> 'reference' and not c.relforcerowsecurity then
    raise exception 'partition % is open to all tenants', c.oid::regclass using errcode = '55000',
      hint = format('in the same transaction: select rowhouse.%I(%L)', kind, pg_partition_root(c.oid));
  end if;
  return null;
end
$$;
revoke all on function rowhouse.judge_made_table() from public, anon, authenticated, service_role;

create constraint trigger judge after insert on rowhouse.made_tables
  deferrable initially deferred for each row execute function rowhouse.judge_made_table();
