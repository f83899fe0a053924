-- Rollouts: bringing the fleet to a set of migrations, ring by ring, so that any process can go on where another ended.

-- How many databases of a server are migrated at once, over all processes. A target that runs holds a slot by its lease.
alter table rowhouse.servers add column migrate_slots integer not null default 4 check (migrate_slots > 0);

-- The versions that are served: a database outside of them answers tenant_upgrading. Starting a rollout moves the range.
create table rowhouse.served_versions (
    singleton   boolean primary key default true check (singleton),
    min_version bigint not null default 0,
    max_version bigint not null default 0 check (max_version >= min_version)
);
insert into rowhouse.served_versions select true, coalesce(max(version), 0), coalesce(max(version), 0) from rowhouse.migration_sets where active;
create constraint trigger note_change after update on rowhouse.served_versions
    deferrable initially deferred for each row execute function rowhouse.note_change('served_versions', 'none');

create table rowhouse.rollouts (
    id           uuid primary key,
    operation    uuid not null references rowhouse.operations,
    set          uuid not null references rowhouse.migration_sets,
    from_version bigint not null,
    to_version   bigint not null,
    state        text not null default 'planned' check (state in ('planned', 'running', 'paused', 'done', 'done_with_failures', 'cancelled')),
    pause        text check (pause in ('operator', 'threshold', 'gate')),
    note         text not null default '',
    -- The set has made a database from nothing, on each server: no other database is touched before.
    prepared     boolean not null default false,
    -- The open ring, and the last one that may be opened without being asked again.
    ring         integer not null default 0,
    until_ring   integer,
    -- Counts results. They are written one after the other, under this row's lock, so a reader misses none.
    seq          bigint not null default 0,
    created_by   text not null default '',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    finished_at  timestamptz,
    check ((state = 'paused') = (pause is not null))
);
-- One at a time: every set follows the one before it.
create unique index rollouts_unfinished on rowhouse.rollouts ((true)) where state in ('planned', 'running', 'paused');

create table rowhouse.rollout_rings (
    rollout         uuid not null references rowhouse.rollouts on delete cascade,
    ring            integer not null,
    name            text not null,
    selectors       text[] not null,
    soak            interval not null default '0',
    manual          boolean not null default false,
    max_failures    integer not null,
    max_failure_pct integer not null default 0,
    slots           integer not null default 0,
    -- What became of its targets; the rest waits or runs.
    total           integer not null default 0,
    done            integer not null default 0,
    failed          integer not null default 0,
    skipped         integer not null default 0,
    -- Failures that an operator decided to go on with.
    forgiven        integer not null default 0,
    closed_at       timestamptz,
    -- An operator opened the way to the next ring.
    passed          boolean not null default false,
    primary key (rollout, ring)
);

create table rowhouse.rollout_targets (
    rollout      uuid not null,
    database     uuid not null references rowhouse.databases,
    server       uuid not null references rowhouse.servers,
    ring         integer not null,
    state        text not null default 'pending' check (state in ('pending', 'running', 'retry_wait', 'done', 'failed', 'needs_repair', 'skipped')),
    noop         boolean not null default false,
    attempts     integer not null default 0,
    from_version bigint not null,
    to_version   bigint,
    next_at      timestamptz not null default now(),
    class        text not null default '',
    sqlstate     text not null default '',
    error        text not null default '',
    detail       jsonb not null default '{}',
    worker       uuid,
    lease_until  timestamptz not null default '-infinity',
    op_epoch     bigint not null default 0,
    seq          bigint not null default 0,
    started_at   timestamptz,
    finished_at  timestamptz,
    primary key (rollout, database),
    foreign key (rollout, ring) references rowhouse.rollout_rings on delete cascade
);
create index rollout_targets_due on rowhouse.rollout_targets (rollout, ring, server, next_at) where state in ('pending', 'retry_wait', 'running');
create index rollout_targets_running on rowhouse.rollout_targets (server) where state = 'running';
create index rollout_targets_seq on rowhouse.rollout_targets (rollout, seq);
create index rollout_targets_failed on rowhouse.rollout_targets (rollout, state) where state in ('failed', 'needs_repair', 'skipped', 'retry_wait');

-- A server that refuses connections is left alone for a while: its databases wait, and are no failures.
create table rowhouse.rollout_servers (
    rollout    uuid not null references rowhouse.rollouts on delete cascade,
    server     uuid not null references rowhouse.servers,
    refused    integer not null default 0,
    reason     text not null default '',
    held_until timestamptz not null default '-infinity',
    primary key (rollout, server)
);
