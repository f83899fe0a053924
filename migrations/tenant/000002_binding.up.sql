-- rowhouse.bind and its two sisters: what makes a table of an application a table of tenants.
--
-- All functions here run as their caller, who must own the table: the migrator, as the database's owner. Each has its search_path
-- pinned, which also makes every name that PostgreSQL prints a qualified one, fit to be executed again.

-- Which kind each table was declared as. The lint compares it with the tables' real shape.
create table rowhouse.tables (
  relation regclass primary key,
  kind     text not null check (kind in ('bind', 'bind_optional', 'reference'))
);
revoke all on rowhouse.tables from public, anon, authenticated, service_role;
grant select on rowhouse.tables to public;

-- Foreign keys that wait for their other side to be declared, so that the order of declarations within a migration is free.
create table rowhouse.parked_keys (
  child          regclass not null,
  name           name not null,
  parent         regclass not null,
  columns        name[] not null, -- without tenant_id
  parent_columns name[] not null,
  on_update      "char" not null,
  on_delete      "char" not null,
  delete_columns name[],          -- of SET NULL and SET DEFAULT; null: all
  is_deferrable  boolean not null,
  is_deferred    boolean not null,
  validated      boolean not null,
  comment        text,
  primary key (child, name)
);
revoke all on rowhouse.parked_keys from public, anon, authenticated, service_role;

-- A table with all its partitions.
create function rowhouse.tree(target regclass) returns regclass[]
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    select coalesce(array_agg(t.relid order by t.level), array[target])
    from pg_partition_tree(target) t
  $$;

-- The kind that a table was declared as; a partition has its root's.
create function rowhouse.kind_of(target regclass) returns text
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    select kind from rowhouse.tables where relation = coalesce(pg_partition_root(target), target)
  $$;

-- The position of the parenthesis that closes the one at start, in SQL text as PostgreSQL prints it: quotes are doubled, never escaped.
create function rowhouse.closing(sql text, start int) returns int
  language plpgsql immutable
  set search_path = pg_catalog, pg_temp
  as $$
declare
  depth int := 0;
  quote text;
  c text;
begin
  for i in start .. length(sql) loop
    c := substr(sql, i, 1);
    if quote is not null then
      if c = quote then quote := null; end if; -- a doubled quote opens again at once
    elsif c in ('''', '"') then quote := c;
    elsif c = '(' then depth := depth + 1;
    elsif c = ')' then
      depth := depth - 1;
      if depth = 0 then return i; end if;
    end if;
  end loop;
  raise exception 'no closing parenthesis in an index definition';
end
$$;

-- A list of columns as PostgreSQL prints it in an index definition, without tenant_id; null when nothing is left.
create function rowhouse.without_tenant(list text) returns text
  language plpgsql immutable
  set search_path = pg_catalog, pg_temp
  as $$
declare
  depth int := 0;
  quote text;
  c text;
  item text := '';
  kept text[] := '{}';
begin
  for i in 1 .. length(list) + 1 loop
    c := substr(list, i, 1);
    if i > length(list) or (c = ',' and depth = 0 and quote is null) then
      if trim(item) !~ '^tenant_id( |$)' then kept := kept || trim(item); end if;
      item := '';
      continue;
    elsif quote is not null then
      if c = quote then quote := null; end if;
    elsif c in ('''', '"') then quote := c;
    elsif c in ('(', '[') then depth := depth + 1;
    elsif c in (')', ']') then depth := depth - 1;
    end if;
    item := item || c;
  end loop;
  return nullif(array_to_string(kept, ', '), '');
end
$$;

-- Which engine this database runs on; the form of the fence depends on it. Asked of the database, never configured.
create function rowhouse.engine() returns text
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    select case when exists (select from pg_extension where extname = 'citus') then 'citus' else 'postgresql' end
  $$;

-- The condition of the fence, and the only place that knows it. On PostgreSQL the function stands in a subselect, which is evaluated once
-- a statement; called in the condition itself it would be evaluated for every row (a scan costs several times as much). The second
-- form's IS NULL keeps it on one index.
--
-- Citus refuses a subselect in a policy; there the setting is read in the condition itself, which a shard evaluates once because the
-- planner has pruned all others.
create function rowhouse.fence_condition(kind text, engine text) returns text
  language sql immutable
  set search_path = pg_catalog, pg_temp
  as $$
    select case engine || ' ' || kind
      when 'postgresql bind' then 'tenant_id = (select rowhouse.tenant_id())'
      when 'postgresql bind_optional' then
        'tenant_id = (select rowhouse.tenant_id()) or (tenant_id is null and (select rowhouse.is_host()))'
      when 'citus bind' then
        'tenant_id = nullif(nullif(current_setting(''rowhouse.tenant_id'', true), ''''), ''host'')::uuid'
      when 'citus bind_optional' then
        'tenant_id = nullif(nullif(current_setting(''rowhouse.tenant_id'', true), ''''), ''host'')::uuid'
        ' or (tenant_id is null and rowhouse.is_host())'
    end
  $$;

-- The policies that fence a table in, as text; it looks at nothing.
--
-- On PostgreSQL the fence is restrictive: whatever policies an application adds, they are and-ed with it. A restrictive policy
-- alone shows nothing, hence the permissive partner, for as long as the table has no permissive policy of its own.
--
-- Citus drops AS RESTRICTIVE on its shards without a word, and a partner would then open every tenant to every tenant. There the fence is
-- the one permissive policy, and the application's own take the condition in instead (rowhouse.wrap_policies).
create function rowhouse.fence_statements(target text, kind text, engine text, has_own boolean) returns text[]
  language sql immutable
  set search_path = pg_catalog, pg_temp
  as $$
    select case engine
      when 'citus' then array[
        format('create policy rh_tenant on %s as permissive for all to public using (%s) with check (%2$s)', target, condition)]
      else array_remove(array[
        format('create policy rh_tenant on %s as restrictive for all to public using (%s) with check (%2$s)', target, condition),
        case when not has_own then format('create policy rh_all on %s for all to public using (true) with check (true)', target) end], null)
    end
    from rowhouse.fence_condition(kind, engine) condition
  $$;

-- Whether a policy's expression, as PostgreSQL prints it, is the fence, alone or and-ed with something.
create function rowhouse.holds(expression text, fence text) returns boolean
  language sql immutable
  set search_path = pg_catalog, pg_temp
  as $$
    select case
      when expression = fence then true
      when starts_with(expression, '(' || fence || ' AND ') then rowhouse.closing(expression, 1) = length(expression)
      else false
    end
  $$;

-- Refuses what cannot be declared.
create function rowhouse.assert_declarable(target regclass, kind text) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  c pg_class;
  schema name;
  declared text;
begin
  select * into c from pg_class where oid = target;
  if c.oid is null then
    raise exception 'there is no such table' using errcode = '42P01';
  end if;
  select nspname into schema from pg_namespace where oid = c.relnamespace;
  if c.relkind not in ('r', 'p') then
    raise exception '% is not a table', target using errcode = '42809',
      hint = 'views see through their tables'' policies when they are made with (security_invoker = true); foreign tables have none';
  end if;
  if c.relpersistence = 't' then
    raise exception '% is a temporary table', target using errcode = '42809';
  end if;
  if schema in ('pg_catalog', 'information_schema') or schema like 'pg\_%' then
    raise exception '% belongs to the system', target using errcode = '42501';
  end if;
  if pg_get_userbyid(c.relowner) <> current_user then
    raise exception '% belongs to role %, not to %', target, c.relowner::regrole, current_user using errcode = '42501',
      hint = 'declare tables in migrations, which run as the database''s owner';
  end if;
  if c.relispartition then
    raise exception '% is a partition', target using errcode = '42809',
      hint = format('declare the partitioned table: select rowhouse.%I(%L)', kind, pg_partition_root(target));
  end if;
  if exists (select
             from pg_inherits h join pg_class p on p.oid = h.inhparent
             where p.relkind = 'r' and target in (h.inhparent, h.inhrelid)) then
    raise exception '% takes part in table inheritance', target using errcode = '0A000',
      hint = 'a query of the parent reads the children past their policies; use a partitioned table';
  end if;
  delete from rowhouse.tables t where not exists (select from pg_class where oid = t.relation); -- dropped since
  select t.kind into declared from rowhouse.tables t where t.relation = target;
  if declared <> kind then
    raise exception '% was declared with rowhouse.% before', target, declared using errcode = '55000',
      hint = 'a table keeps its kind; make another table and move the rows';
  end if;
end
$$;

-- The column. Rows that exist get the tenant of the current setting, without a rewrite of the table: a stable default is evaluated once.
create function rowhouse.add_tenant_column(target regclass, kind text) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  a pg_attribute;
begin
  select * into a from pg_attribute where attrelid = target and attname = 'tenant_id' and not attisdropped;
  if a.attname is not null and a.atttypid <> 'uuid'::regtype then
    raise exception '%.tenant_id is of type %, not uuid', target, format_type(a.atttypid, a.atttypmod) using errcode = '42804',
      hint = 'rename the column: tenant_id is rowhouse''s';
  end if;
  if a.attgenerated <> '' or a.attidentity <> '' then
    raise exception '%.tenant_id is generated', target using errcode = '42P16', hint = 'rename the column: tenant_id is rowhouse''s';
  end if;
  if a.attname is null then
    execute format('alter table %s add column tenant_id uuid %s default rowhouse.tenant_id()',
                   target, case kind when 'bind' then 'not null' end);
  else
    execute format('alter table %s alter column tenant_id set default rowhouse.tenant_id()', target);
    execute format('alter table %s alter column tenant_id %s not null', target, case kind when 'bind' then 'set' else 'drop' end);
  end if;
exception when not_null_violation then
  raise exception '% holds rows, and nothing says whose they are', target using errcode = '23502',
    hint = 'bind a table before it is filled; in a database of one tenant, set rowhouse.tenant_id for the transaction first';
end
$$;

-- The indexes that do not lead with tenant_id though they should, those of constraints included. Other kinds of index than btree have no
-- operators for uuid of their own and stay as they are.
create function rowhouse.misfits(target regclass, kind text) returns oid[]
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    select coalesce(array_agg(i.indexrelid order by i.indisprimary desc, i.indexrelid), '{}')
    from unnest(rowhouse.tree(target)) r
    join pg_index i on i.indrelid = r
    join pg_class ic on ic.oid = i.indexrelid and not ic.relispartition -- a partition's follow their parent's
    join pg_am am on am.oid = ic.relam
    join pg_attribute a on a.attrelid = r and a.attname = 'tenant_id'
    left join pg_constraint con on con.conindid = i.indexrelid and con.conrelid = r and con.contype in ('p', 'u', 'x')
    where case
      -- With tenant_id in it a primary key would make tenant_id not null, without a word.
      when kind = 'bind_optional' and con.contype = 'p' then false
      when con.contype = 'x' then not a.attnum = any (con.conkey)
      when con.contype is not null or am.amname = 'btree' then
        i.indkey[0] <> a.attnum or (kind = 'bind_optional' and i.indisunique and not i.indnullsnotdistinct)
      else false
    end
  $$;

-- Builds one of them again, under its name, with tenant_id first; without it when kind is null.
create function rowhouse.rebuild(index oid, kind text) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  i pg_index;
  ic pg_class;
  con pg_constraint;
  am name;
  keys text;
  included text;
  def text;
  head text;
  stop int;
  tail int;
  list text;
  lead text := case when kind is not null then 'tenant_id' end;
  index_comment text := obj_description(index, 'pg_class');
  constraint_comment text;
begin
  select * into i from pg_index where indexrelid = index;
  select * into ic from pg_class where oid = index;
  select amname into am from pg_am where oid = ic.relam;
  select * into con from pg_constraint where conindid = index and conrelid = i.indrelid and contype in ('p', 'u', 'x');
  constraint_comment := obj_description(con.oid, 'pg_constraint');

  if con.contype in ('p', 'u') then
    select string_agg(quote_ident(a.attname), ', ' order by k.n) into keys
    from unnest(con.conkey) with ordinality k (attnum, n)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where a.attname <> 'tenant_id';
    select string_agg(quote_ident(a.attname), ', ' order by k.n) into included
    from unnest(i.indkey) with ordinality k (attnum, n)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where k.n > i.indnkeyatts and a.attname <> 'tenant_id';
    def := format('%s%s (%s)%s%s%s%s%s',
      case con.contype when 'p' then 'primary key' else 'unique' end,
      case when con.contype = 'u' and (i.indnullsnotdistinct or kind = 'bind_optional') then ' nulls not distinct' end,
      -- A period (PostgreSQL 18) is the last column and says so.
      concat_ws(', ', lead, keys || case when to_jsonb(con) ->> 'conperiod' = 'true' then ' without overlaps' else '' end),
      ' include (' || included || ')',
      ' with (' || array_to_string(ic.reloptions, ', ') || ')',
      ' using index tablespace ' || (select quote_ident(spcname) from pg_tablespace where oid = ic.reltablespace),
      case when con.condeferrable then ' deferrable' end,
      case when con.condeferred then ' initially deferred' end);
  elsif con.contype = 'x' then
    if not exists (select from pg_opclass where opcmethod = ic.relam and opcintype = 'uuid'::regtype and opcdefault) then
      raise exception 'exclusion constraint % of % cannot take tenant_id in', con.conname, i.indrelid::regclass using errcode = '0A000',
        hint = 'create extension btree_gist gives gist the operators for uuid that it lacks';
    end if;
    def := pg_get_constraintdef(con.oid);
    stop := rowhouse.closing(def, strpos(def, '('));
    list := rowhouse.without_tenant(substr(def, strpos(def, '(') + 1, stop - strpos(def, '(') - 1));
    def := concat(left(def, strpos(def, '(')), concat_ws(', ', lead || ' with =', list), substr(def, stop));
  else
    def := pg_get_indexdef(index);
    head := format('CREATE %sINDEX %I ON %s%s USING %I (', case when i.indisunique then 'UNIQUE ' end, ic.relname,
                   case when ic.relkind = 'I' then 'ONLY ' end, i.indrelid::regclass, am);
    if not starts_with(def, head) then
      raise exception 'index % of % has a definition that rowhouse does not understand', ic.relname, i.indrelid::regclass
        using errcode = '0A000';
    end if;
    stop := rowhouse.closing(def, length(head));
    list := rowhouse.without_tenant(substr(def, length(head) + 1, stop - length(head) - 1));
    tail := case when substr(def, stop + 1, 10) = ' INCLUDE (' then rowhouse.closing(def, stop + 10) else stop end;
    def := concat(format('create %sindex %I on %s using %I (%s)', case when i.indisunique then 'unique ' end, ic.relname,
                         i.indrelid::regclass, am, concat_ws(', ', lead, list)),
                  substr(def, stop + 1, tail - stop),
                  case when i.indisunique and not i.indnullsnotdistinct and kind = 'bind_optional' then ' nulls not distinct' end,
                  substr(def, tail + 1));
  end if;

  if lead is null and coalesce(keys, list) is null then
    -- It held nothing else.
    execute case when con.oid is null then format('drop index %s', index::regclass)
                 else format('alter table %s drop constraint %I', i.indrelid::regclass, con.conname) end;
    return;
  end if;
  if con.oid is not null then
    execute format('alter table %s drop constraint %I', i.indrelid::regclass, con.conname);
    execute format('alter table %s add constraint %I %s', i.indrelid::regclass, con.conname, def);
  else
    execute format('drop index %s', index::regclass);
    execute def;
  end if;
  if constraint_comment is not null then
    execute format('comment on constraint %I on %s is %L', con.conname, i.indrelid::regclass, constraint_comment);
  end if;
  if index_comment is not null then
    execute format('comment on index %I.%I is %L', ic.relnamespace::regnamespace::name, ic.relname, index_comment);
  end if;
  if i.indisreplident then
    execute format('alter table %s replica identity using index %I', i.indrelid::regclass, ic.relname);
  end if;
  if i.indisclustered then
    execute format('alter table %s cluster on %I', i.indrelid::regclass, ic.relname);
  end if;
end
$$;

-- Takes down, and writes down, the foreign keys of a table that must become other ones: those in both directions whose columns do not
-- fit the kinds of their two sides, and those that stand on an index about to be built again.
create function rowhouse.park_keys(target regclass, indexes oid[]) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  tree regclass[] := rowhouse.tree(target);
  key record;
  child_kind text;
  parent_kind text;
  paired boolean;
begin
  for key in
    select con.*, obj_description(con.oid, 'pg_constraint') as comment,
      (select array_agg(a.attname order by k.n) from unnest(con.conkey) with ordinality k (attnum, n)
       join pg_attribute a on a.attrelid = con.conrelid and a.attnum = k.attnum) as columns,
      (select array_agg(a.attname order by k.n) from unnest(con.confkey) with ordinality k (attnum, n)
       join pg_attribute a on a.attrelid = con.confrelid and a.attnum = k.attnum) as parent_columns,
      (select array_agg(a.attname) from unnest(con.confdelsetcols) k (attnum)
       join pg_attribute a on a.attrelid = con.conrelid and a.attnum = k.attnum) as delete_columns
    from pg_constraint con
    where con.contype = 'f' and con.conparentid = 0 and (con.conrelid = any (tree) or con.confrelid = any (tree))
    order by con.conname
  loop
    child_kind := rowhouse.kind_of(key.conrelid);
    parent_kind := rowhouse.kind_of(key.confrelid);
    paired := exists (select from unnest(key.columns, key.parent_columns) p (c, r) where p.c = 'tenant_id' and p.r = 'tenant_id');
    perform rowhouse.assert_key(key.conname, key.conrelid, child_kind, key.confrelid, parent_kind, key.confupdtype, key.confdeltype);
    if not paired and 'tenant_id' = any (key.columns || key.parent_columns) then
      raise exception 'foreign key % of % pairs tenant_id with another column', key.conname, key.conrelid::regclass using errcode = '0A000';
    end if;
    if key.confmatchtype = 'f' and cardinality(key.columns) > 1 then
      raise exception 'foreign key % of % is MATCH FULL over several columns', key.conname, key.conrelid::regclass using errcode = '0A000',
        hint = 'tenant_id is never null, so the others could not all be; use MATCH SIMPLE and a CHECK constraint';
    end if;
    continue when not key.conindid = any (indexes) and case
      when child_kind is null and key.conrelid = any (tree) then not paired -- the table is being unbound
      when parent_kind = 'bind' then paired and (key.confdeltype not in ('n', 'd') or key.delete_columns is not null)
      else parent_kind = 'reference'
    end;
    insert into rowhouse.parked_keys
    select key.conrelid, key.conname, key.confrelid,
      array_agg(p.c order by p.n) filter (where p.c <> 'tenant_id'), array_agg(p.r order by p.n) filter (where p.c <> 'tenant_id'),
      key.confupdtype, key.confdeltype, key.delete_columns, key.condeferrable, key.condeferred, key.convalidated, key.comment
    from unnest(key.columns, key.parent_columns) with ordinality p (c, r, n);
    execute format('alter table %s drop constraint %I', key.conrelid::regclass, key.conname);
  end loop;
end
$$;

-- Refuses foreign keys that no form could make safe.
create function rowhouse.assert_key(name name, child regclass, child_kind text, parent regclass, parent_kind text,
                                    on_update "char", on_delete "char") returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  key text := format('foreign key %I of %s', name, child);
begin
  if parent_kind = 'bind_optional' then
    raise exception '% points to %, a bind_optional table', key, parent using errcode = '0A000',
      hint = 'a key through a tenant_id that may be null is not checked; refer to a bound table or a reference table';
  elsif child_kind = 'reference' and parent_kind = 'bind' then
    raise exception '% points from a reference table to %, a bound table', key, parent using errcode = '0A000',
      hint = 'rows common to all tenants cannot depend on one tenant''s; bind the table too';
  elsif child_kind in ('bind', 'bind_optional') and parent_kind = 'reference' and (on_update in ('c', 'n', 'd') or on_delete in ('c', 'n', 'd')) then
    raise exception '% would change tenants'' rows when a row of %, a reference table, is changed', key, parent using errcode = '0A000',
      hint = 'use ON DELETE NO ACTION and ON UPDATE NO ACTION';
  elsif child_kind in ('bind', 'bind_optional') and parent_kind = 'bind' and on_update in ('n', 'd') then
    raise exception '% has an ON UPDATE that would set tenant_id too', key using errcode = '0A000',
      hint = 'use ON UPDATE CASCADE or NO ACTION';
  end if;
end
$$;

-- Sets or lifts FORCE on a table and its partitions; answers those that were changed.
create function rowhouse.set_force(target regclass, wanted boolean) returns regclass[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  changed regclass[] := '{}';
  r regclass;
begin
  for r in
    select c.oid from unnest(rowhouse.tree(target)) t join pg_class c on c.oid = t where c.relforcerowsecurity <> wanted
  loop
    execute format('alter table %s %s row level security', r, case when wanted then 'force' else 'no force' end);
    changed := changed || r;
  end loop;
  return changed;
end
$$;

-- Puts back the foreign keys whose two sides are declared.
create function rowhouse.restore_keys() returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  key rowhouse.parked_keys;
  child_kind text;
  parent_kind text;
  lead text;
  lifted regclass[];
  r regclass;
begin
  delete from rowhouse.parked_keys k
  where not exists (select from pg_class where oid = k.child) or not exists (select from pg_class where oid = k.parent);
  for key in select * from rowhouse.parked_keys order by child::text, name loop
    child_kind := rowhouse.kind_of(key.child);
    parent_kind := rowhouse.kind_of(key.parent);
    perform rowhouse.assert_key(key.name, key.child, child_kind, key.parent, parent_kind, key.on_update, key.on_delete);
    -- Keys between tables of which neither is declared were taken down by unbind.
    continue when (child_kind is null or parent_kind is null) and coalesce(child_kind, 'reference') <> coalesce(parent_kind, 'reference');
    lead := case parent_kind when 'bind' then 'tenant_id, ' end;
    -- The check of existing rows goes through the policies of both tables. Under FORCE it would see none, and call valid what is not.
    lifted := rowhouse.set_force(key.child, false) || rowhouse.set_force(key.parent, false);
    execute format('alter table %s add constraint %I foreign key (%s%s) references %s (%s%s) on update %s on delete %s%s%s%s%s',
      key.child, key.name,
      lead, (select string_agg(quote_ident(c), ', ' order by n) from unnest(key.columns) with ordinality u (c, n)),
      key.parent,
      lead, (select string_agg(quote_ident(c), ', ' order by n) from unnest(key.parent_columns) with ordinality u (c, n)),
      rowhouse.action(key.on_update), rowhouse.action(key.on_delete),
      -- Without a list the whole key would be set, tenant_id too, and every delete of a parent would fail.
      case when key.on_delete in ('n', 'd') then
        ' (' || (select string_agg(quote_ident(c), ', ' order by n)
                 from unnest(coalesce(key.delete_columns, key.columns)) with ordinality u (c, n)) || ')' end,
      case when key.is_deferrable then ' deferrable' end,
      case when key.is_deferred then ' initially deferred' end,
      case when not key.validated then ' not valid' end);
    foreach r in array lifted loop
      execute format('alter table %s force row level security', r);
    end loop;
    if key.comment is not null then
      execute format('comment on constraint %I on %s is %L', key.name, key.child, key.comment);
    end if;
    delete from rowhouse.parked_keys k where k.child = key.child and k.name = key.name;
  end loop;
end
$$;

create function rowhouse.action(letter "char") returns text
  language sql immutable
  set search_path = pg_catalog, pg_temp
  as $$
    select case letter when 'a' then 'no action' when 'r' then 'restrict' when 'c' then 'cascade' when 'n' then 'set null' when 'd' then 'set default' end
  $$;

-- Puts the policies on a table and its partitions.
create function rowhouse.fence(target regclass, kind text) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  engine text := rowhouse.engine();
  statement text;
  policy name;
  r regclass;
begin
  -- Each partition too: it can be queried by its own name, where the parent's policies do not apply.
  foreach r in array rowhouse.tree(target) loop
    execute format('alter table %s enable row level security', r);
    execute format('alter table %s force row level security', r);
    for policy in select polname from pg_policy where polrelid = r and polname in ('rh_tenant', 'rh_all') loop
      execute format('drop policy %I on %s', policy, r);
    end loop;
    foreach statement in array rowhouse.fence_statements(r::text, kind, engine, exists (select from pg_policy where polrelid = r and polpermissive)) loop
      execute statement;
    end loop;
    if engine = 'citus' then
      perform rowhouse.wrap_policies(r);
    end if;
    -- These three are outside row-level security.
    execute format('revoke truncate, references, trigger on %s from public, anon, authenticated, service_role', r);
  end loop;
end
$$;

-- On Citus: puts the fence into an application's own policies, and takes the lone one away when there are any. Beside it they would be
-- or-ed with it and show foreign rows.
create function rowhouse.wrap_policies(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  fence text := (select pg_get_expr(polqual, polrelid) from pg_policy where polrelid = target and polname = 'rh_tenant');
  p record;
begin
  for p in
    select polname, polpermissive, pg_get_expr(polqual, polrelid) as condition, pg_get_expr(polwithcheck, polrelid) as check
    from pg_policy where polrelid = target and polname <> 'rh_tenant'
  loop
    if not p.polpermissive then
      raise exception 'policy % of % is restrictive, which Citus drops without a word', p.polname, target using errcode = '0A000',
        hint = 'write its condition into the permissive policies';
    end if;
    if concat(p.condition, p.check) ~* '\mselect\M' then
      raise exception 'policy % of % holds a subselect, which Citus refuses', p.polname, target using errcode = '0A000',
        hint = 'copy the column that it looks up into the table';
    end if;
    execute concat(format('alter policy %I on %s', p.polname, target),
      ' using (' || case when rowhouse.holds(p.condition, fence) then p.condition else fence || ' and (' || p.condition || ')' end || ')',
      ' with check (' || case when rowhouse.holds(p.check, fence) then p.check else fence || ' and (' || p.check || ')' end || ')');
  end loop;
  if found then
    execute format('drop policy rh_tenant on %s', target);
  end if;
end
$$;

-- Grants, given once: binding a table again must not give back what a migration has taken away since. Anonymous requests get what the
-- migration grants.
create function rowhouse.open_table(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  s regclass;
begin
  execute format('grant select, insert, update, delete on %s to authenticated, service_role', target);
  for s in
    select d.objid from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S'
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = target and d.deptype = 'a'
  loop
    execute format('grant usage on sequence %s to authenticated, service_role', s);
  end loop;
end
$$;

-- Grants to the host's login, where one was admitted: it keeps the rows common to all and its own among the tenants'.
create function rowhouse.open_to_host(target regclass, kind text) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  host name := (select host_role from rowhouse.identity join pg_roles on rolname = host_role);
begin
  if host is null or kind = 'bind' then
    return;
  end if;
  execute format('grant usage on schema %s to %I', (select relnamespace::regnamespace from pg_class where oid = target), host);
  execute format('grant select, insert, update, delete on %s to %I', target, host);
end
$$;

-- Names the login that works for the host here and grants it what is the host's; null: none, and the one before loses it.
create function rowhouse.admit_host(login name) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  former name := (select host_role from rowhouse.identity join pg_roles on rolname = host_role);
  t rowhouse.tables;
begin
  update rowhouse.identity set host_role = login;
  if not found then
    raise exception 'this database has no identity yet' using errcode = '55000';
  end if;
  for t in select * from rowhouse.tables where kind <> 'bind' and relation in (select oid::regclass from pg_class) loop
    if former is distinct from login and former is not null then
      execute format('revoke all on %s from %I', t.relation, former);
    end if;
    perform rowhouse.open_to_host(t.relation, t.kind);
  end loop;
end
$$;

-- The work of bind and bind_optional, also for tables in schema rowhouse.
create function rowhouse.bind_relation(target regclass, kind text) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  indexes oid[];
  index oid;
  key record;
begin
  perform rowhouse.assert_declarable(target, kind);
  insert into rowhouse.tables values (target, kind) on conflict do nothing;
  if found then
    perform rowhouse.open_table(target);
    perform rowhouse.open_to_host(target, kind);
  end if;
  if kind = 'bind_optional' then
    select con.conkey, array_agg(a.atttypid::regtype::text) as types into key
    from pg_constraint con join pg_attribute a on a.attrelid = con.conrelid and a.attnum = any (con.conkey)
    where con.conrelid = target and con.contype = 'p'
    group by con.conkey;
    if key.types is distinct from array['uuid'] or exists
       (select from pg_attribute where attrelid = target and attname = 'tenant_id' and attnum = any (key.conkey)) then
      raise exception '% needs a primary key of one uuid column', target using errcode = '42P16',
        hint = 'the key of a bind_optional table cannot hold tenant_id, which may be null there, so it must be unique over all tenants by itself';
    end if;
  end if;
  perform rowhouse.add_tenant_column(target, kind);
  indexes := rowhouse.misfits(target, kind);
  perform rowhouse.park_keys(target, indexes);
  foreach index in array indexes loop
    perform rowhouse.rebuild(index, kind);
  end loop;
  perform rowhouse.fence(target, kind);
  perform rowhouse.restore_keys();
end
$$;

-- Declares that every row of a table belongs to a tenant. Run again after adding a constraint or an index, it brings them into form.
create function rowhouse.bind(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
begin
  perform rowhouse.assert_application(target);
  perform rowhouse.bind_relation(target, 'bind');
end
$$;

-- Declares that a row belongs to a tenant or, with no tenant_id, to the host. Neither sees the other's.
create function rowhouse.bind_optional(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
begin
  perform rowhouse.assert_application(target);
  perform rowhouse.bind_relation(target, 'bind_optional');
end
$$;

-- Declares that the rows are common to all tenants: everybody reads, only migrations and the host write. The grants are the fence.
create function rowhouse.reference(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  r regclass;
begin
  perform rowhouse.assert_application(target);
  perform rowhouse.assert_declarable(target, 'reference');
  if exists (select from pg_attribute where attrelid = target and attname = 'tenant_id' and not attisdropped) then
    raise exception '% has a tenant_id', target using errcode = '42P16', hint = format('use rowhouse.bind(%L)', target);
  end if;
  insert into rowhouse.tables values (target, 'reference') on conflict do nothing;
  if found then
    execute format('grant select on %s to anon, authenticated, service_role', target);
    perform rowhouse.open_to_host(target, 'reference');
  end if;
  foreach r in array rowhouse.tree(target) loop
    execute format('revoke insert, update, delete, truncate, references, trigger on %s from public, anon, authenticated, service_role', r);
  end loop;
  perform rowhouse.restore_keys();
end
$$;

-- Takes a declaration back: the table is as if it were of one tenant, its keys without tenant_id, its policies gone, the request roles
-- without grants. That is right in a database of one tenant, and refused where rows of two would fall together. What
-- bind_optional did cannot be taken back: its unique keys no longer say whether two nulls were the same.
create function rowhouse.unbind(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  was text := (select kind from rowhouse.tables where relation = target);
  indexes oid[];
  index oid;
  tenants bigint;
  policy record;
  r regclass;
begin
  perform rowhouse.assert_application(target);
  perform rowhouse.assert_declarable(target, was);
  if was is null then
    return;
  elsif was = 'bind_optional' then
    raise exception '% was declared with rowhouse.bind_optional, which cannot be taken back', target using errcode = '0A000',
      hint = 'make another table and move the rows';
  end if;
  delete from rowhouse.tables where relation = target;
  foreach r in array rowhouse.tree(target) loop
    execute format('revoke all on %s from anon, authenticated, service_role', r);
  end loop;
  if was = 'reference' then
    return;
  end if;

  perform rowhouse.set_force(target, false);
  execute format('select count(*) from (select distinct tenant_id from %s limit 2) t', target) into tenants;
  if tenants > 1 then
    raise exception '% holds rows of several tenants', target using errcode = '55000', hint = 'only a table of one tenant can be unbound';
  end if;
  indexes := array(select i.indexrelid
                   from unnest(rowhouse.tree(target)) t
                   join pg_attribute a on a.attrelid = t and a.attname = 'tenant_id'
                   join pg_index i on i.indrelid = t and a.attnum = any (i.indkey)
                   join pg_class ic on ic.oid = i.indexrelid and not ic.relispartition
                   order by i.indisprimary desc, i.indexrelid);
  perform rowhouse.park_keys(target, indexes);
  foreach index in array indexes loop
    perform rowhouse.rebuild(index, null);
  end loop;
  foreach r in array rowhouse.tree(target) loop
    for policy in select polname from pg_policy where polrelid = r and polname in ('rh_tenant', 'rh_all') loop
      execute format('drop policy %I on %s', policy.polname, r);
    end loop;
    execute format('alter table %s disable row level security', r);
  end loop;
  execute format('alter table %s drop column tenant_id', target);
  perform rowhouse.restore_keys();
end
$$;

create function rowhouse.assert_application(target regclass) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
begin
  if exists (select from pg_class where oid = target and relnamespace = 'rowhouse'::regnamespace) then
    raise exception '% is rowhouse''s own', target using errcode = '42501';
  end if;
end
$$;

-- What every file of an application must leave behind; the migrator calls it in the file's own transaction.
create function rowhouse.check_migration() returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
declare
  t regclass;
  key rowhouse.parked_keys;
begin
  perform rowhouse.restore_keys(); -- forgets keys of tables that were dropped
  if rowhouse.engine() = 'citus' then
    -- Policies that the file has made must take the fence in before anybody can use them.
    perform rowhouse.fence(d.relation, d.kind)
    from rowhouse.tables d
    where d.kind <> 'reference' and exists (select from pg_policy p where p.polname <> 'rh_tenant' and p.polrelid = any (rowhouse.tree(d.relation)));
  end if;
  select c.oid into t
  from pg_class c
  where c.relkind in ('r', 'p') and not c.relispartition and rowhouse.is_exposed(c.relnamespace)
    and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e')
    and not exists (select from rowhouse.tables where relation = c.oid)
  order by c.oid
  limit 1;
  if t is not null then
    raise exception 'table % was not declared', t using errcode = '55000',
      hint = format('select rowhouse.bind(%L) makes its rows the tenants'', rowhouse.reference(%L) common to all', t, t);
  end if;
  select * into key from rowhouse.parked_keys order by child::text, name limit 1;
  if key.name is not null then
    raise exception 'foreign key % of % to % waits for its other side', key.name, key.child, key.parent using errcode = '55000',
      hint = format('declare both tables in the same file: %s', case
        when rowhouse.kind_of(key.child) is null then format('select rowhouse.bind(%L)', key.child)
        else format('select rowhouse.bind(%L)', key.parent) end);
  end if;
end
$$;

-- Whether the request roles can reach into a schema.
create function rowhouse.is_exposed(schema oid) returns boolean
  language sql stable
  set search_path = pg_catalog, pg_temp
  as $$
    select n.nspname not in ('rowhouse', 'rowhouse_guard', 'information_schema') and n.nspname not like 'pg\_%'
      and (has_schema_privilege('anon', n.oid, 'usage') or has_schema_privilege('authenticated', n.oid, 'usage')
        or has_schema_privilege('service_role', n.oid, 'usage'))
    from pg_namespace n where n.oid = schema
  $$;

-- Nobody but the owner calls any of these.
revoke all on all functions in schema rowhouse from public, anon, authenticated, service_role;
grant execute on function rowhouse.tenant_id(), rowhouse.is_host() to public;
