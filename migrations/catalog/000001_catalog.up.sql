-- The catalog: which tenant lives in which database, and what was done to it.
-- Everything stands in schema rowhouse; River's tables, made by its own migrator, stand in schema river.

create schema if not exists rowhouse;
revoke all on schema rowhouse from public;

-- One row says which catalog this is. key_check is a sealed constant: a keyset that cannot open it is refused before
-- anything is written under it.
create table rowhouse.catalog (
    singleton  boolean primary key default true check (singleton),
    id         uuid not null default gen_random_uuid(),
    key_check  bytea,
    created_at timestamptz not null default now()
);
insert into rowhouse.catalog default values;

-- The revision grows with every change. It is one row and not a sequence, because numbers of a sequence can become
-- visible out of order and a reader would skip one for ever; the row's lock is held to the commit.
create table rowhouse.revision (
    singleton boolean primary key default true check (singleton),
    value     bigint not null
);
insert into rowhouse.revision (value) values (1);

-- What changed last, and at which revision: one row an object, so that it stays as small as the catalog.
create table rowhouse.changes (
    kind     text not null,
    id       uuid not null,
    revision bigint not null,
    primary key (kind, id)
);
create index changes_revision on rowhouse.changes (revision);

-- The audit trail of the control plane. Rows are written with the change they tell of and never changed again.
create table rowhouse.audit_events (
    seq          bigint generated always as identity primary key,
    at           timestamptz not null default now(),
    txid         xid8 not null default pg_current_xact_id(),
    action       text not null,
    target_kind  text not null default '',
    target_id    uuid,
    target       text not null default '',
    side         text not null check (side in ('host', 'tenant', 'system')),
    actor        text not null,
    impersonator text,
    address      text,
    request_id   text,
    operation    uuid,
    detail       jsonb not null default '{}'
);
create index audit_events_txid on rowhouse.audit_events (txid);
create index audit_events_target on rowhouse.audit_events (target_id, seq);

create function rowhouse.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% on %.% is refused: rows here are only added', tg_op, tg_table_schema, tg_table_name
        using errcode = '42501';
end $$;
create trigger append_only before update or delete on rowhouse.audit_events
    for each row execute function rowhouse.refuse_change();
create trigger append_only_truncate before truncate on rowhouse.audit_events
    for each statement execute function rowhouse.refuse_change();

create table rowhouse.servers (
    id              uuid primary key,
    name            text not null unique check (name ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$'),
    hosts           text[] not null check (cardinality(hosts) > 0),
    sslmode         text not null default 'verify-full',
    max_connections integer not null default 80 check (max_connections > 0),
    max_in_use      integer not null default 0 check (max_in_use >= 0),
    max_databases   integer not null default 500 check (max_databases > 0),
    labels          jsonb not null default '{}',
    state           text not null default 'active' check (state in ('active', 'drained')),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);

create table rowhouse.databases (
    id                 uuid primary key,
    server             uuid not null references rowhouse.servers,
    name               text not null check (octet_length(name) between 1 and 63),
    kind               text not null check (kind in ('shared', 'dedicated')),
    state              text not null check (state in ('creating', 'active', 'held', 'retired', 'template', 'spare', 'failed', 'dropping', 'gone', 'orphan')),
    adopted            boolean not null default false,
    epoch              bigint not null default 1,
    credential_version bigint not null default 1,
    schema_version     bigint not null default 0,
    schema_chain       text not null default '',
    fingerprint        text not null default '',
    plan_epoch         bigint not null default 1,
    migrate_error      text,
    checked_at         timestamptz,
    max_tenants        integer not null default 5000 check (max_tenants > 0),
    labels             jsonb not null default '{}',
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now()
);
-- A database that is gone leaves its name to another.
create unique index databases_name on rowhouse.databases (server, name) where state <> 'gone';

-- Sealed under the keyset, each bound to its own row: copied to another row it does not open.
-- login says what it is for: the provisioner and the migrator belong to a server, the others to one database.
create table rowhouse.credentials (
    server     uuid not null references rowhouse.servers on delete cascade,
    database   uuid references rowhouse.databases on delete cascade,
    login      text not null check (login in ('provisioner', 'migrator', 'data', 'host', 'unscoped')),
    version    bigint not null default 1,
    role       text not null check (octet_length(role) between 1 and 63),
    secret     bytea,
    created_at timestamptz not null default now(),
    unique nulls not distinct (server, database, login, version),
    check ((database is null) = (login in ('provisioner', 'migrator')))
);

create table rowhouse.tenants (
    id           uuid primary key,
    name         text not null check (name ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' and name !~ '--'),
    state        text not null check (state in ('provisioning', 'failed', 'active', 'suspended', 'read_only', 'maintenance', 'deleting', 'deleted')),
    state_reason text,
    state_until  timestamptz,
    edition      text,
    database     uuid references rowhouse.databases,
    epoch        bigint not null default 1,
    purge_after  timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
);
create unique index tenants_name on rowhouse.tenants (name) where state <> 'deleted';
create index tenants_database on rowhouse.tenants (database);

create table rowhouse.aliases (
    name   text primary key,
    tenant uuid not null references rowhouse.tenants,
    until  timestamptz not null
);
create index aliases_tenant on rowhouse.aliases (tenant);

create table rowhouse.domains (
    host       text primary key check (host = lower(host)),
    tenant     uuid not null references rowhouse.tenants,
    is_primary boolean not null default false
);
create index domains_tenant on rowhouse.domains (tenant);

-- What the host decides, for everybody (tenant null) or for one tenant.
create table rowhouse.settings (
    tenant     uuid references rowhouse.tenants,
    key        text not null,
    value      jsonb not null,
    updated_at timestamptz not null default now(),
    unique nulls not distinct (tenant, key)
);

create table rowhouse.operations (
    id          uuid primary key,
    kind        text not null,
    state       text not null default 'pending' check (state in ('pending', 'running', 'waiting', 'paused', 'done', 'failed', 'cancelled')),
    tenant      uuid references rowhouse.tenants,
    database    uuid references rowhouse.databases,
    args        jsonb not null default '{}',
    step        text not null default '',
    steps       text[] not null default '{}',
    error       text,
    attempts    integer not null default 0,
    op_epoch    bigint not null default 0,
    lease_until timestamptz not null default '-infinity',
    next_at     timestamptz not null default now(),
    created_by  text not null default '',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    finished_at timestamptz
);
-- One unfinished operation a tenant and a database.
create unique index operations_tenant on rowhouse.operations (tenant)
    where tenant is not null and state not in ('done', 'failed', 'cancelled');
create unique index operations_database on rowhouse.operations (database)
    where database is not null and state not in ('done', 'failed', 'cancelled');
create index operations_created on rowhouse.operations (created_at desc);

create table rowhouse.operation_events (
    seq       bigint generated always as identity primary key,
    operation uuid not null references rowhouse.operations,
    at        timestamptz not null default now(),
    state     text not null,
    step      text not null default '',
    message   text not null default ''
);
create index operation_events_operation on rowhouse.operation_events (operation, seq);
create trigger append_only before update or delete on rowhouse.operation_events
    for each row execute function rowhouse.refuse_change();

-- Operator tokens: found by id, compared by hash, shown once.
create table rowhouse.tokens (
    id          text primary key,
    hash        bytea not null,
    permissions text[] not null default '{}',
    subject     text not null,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null,
    revoked_at  timestamptz
);

-- The live processes. A row whose lease ended is a process that died.
create table rowhouse.instances (
    id          uuid primary key,
    host        text not null default '',
    version     text not null default '',
    works       boolean not null default false,
    revision    bigint not null default 0,
    started_at  timestamptz not null default now(),
    lease_until timestamptz not null
);

-- The application's migrations, as they were when a rollout began: any process can continue it, and new tenants are
-- born with the same bodies.
create table rowhouse.migration_sets (
    id         uuid primary key,
    version    bigint not null,
    chain      text not null unique,
    active     boolean not null default false,
    created_by text not null default '',
    created_at timestamptz not null default now()
);
create unique index migration_sets_active on rowhouse.migration_sets (active) where active;
create table rowhouse.migration_files (
    set     uuid not null references rowhouse.migration_sets on delete cascade,
    version bigint not null,
    name    text not null,
    sha256  text not null,
    up      text not null,
    down    text,
    primary key (set, version)
);

-- Every change of what routers must know takes the next revision, at the end of its transaction (the trigger is deferred,
-- so that a long transaction does not hold the one row), and is refused when that transaction wrote no audit event.
create function rowhouse.note_change() returns trigger language plpgsql as $$
declare
    changed jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
    rev bigint;
begin
    if not exists (select from rowhouse.audit_events where txid = pg_current_xact_id()) then
        raise exception 'a change of %.% without its audit event', tg_table_schema, tg_table_name
            using errcode = '42501', hint = 'write through catalog.Update';
    end if;
    update rowhouse.revision set value = value + 1 returning value into rev;
    insert into rowhouse.changes (kind, id, revision)
    values (tg_argv[0], coalesce((changed ->> tg_argv[1])::uuid, '00000000-0000-0000-0000-000000000000'), rev)
    on conflict (kind, id) do update set revision = excluded.revision;
    perform pg_notify('rowhouse', '');
    return null;
end $$;

create constraint trigger note_change after insert or update or delete on rowhouse.servers
    deferrable initially deferred for each row execute function rowhouse.note_change('server', 'id');
create constraint trigger note_change after insert or update or delete on rowhouse.databases
    deferrable initially deferred for each row execute function rowhouse.note_change('database', 'id');
create constraint trigger note_change after insert or update or delete on rowhouse.credentials
    deferrable initially deferred for each row execute function rowhouse.note_change('database', 'database');
create constraint trigger note_change after insert or update or delete on rowhouse.tenants
    deferrable initially deferred for each row execute function rowhouse.note_change('tenant', 'id');
create constraint trigger note_change after insert or update or delete on rowhouse.aliases
    deferrable initially deferred for each row execute function rowhouse.note_change('tenant', 'tenant');
create constraint trigger note_change after insert or update or delete on rowhouse.domains
    deferrable initially deferred for each row execute function rowhouse.note_change('tenant', 'tenant');
create constraint trigger note_change after insert or update or delete on rowhouse.settings
    deferrable initially deferred for each row execute function rowhouse.note_change('tenant', 'tenant');
create constraint trigger note_change after insert or update or delete on rowhouse.tokens
    deferrable initially deferred for each row execute function rowhouse.note_change('token', 'none');
create constraint trigger note_change after insert or update or delete on rowhouse.migration_sets
    deferrable initially deferred for each row execute function rowhouse.note_change('migration_set', 'id');
