-- What the host sells: editions, and what each gives to its tenants. A tenant's own values stand among its settings.

create table rowhouse.editions (
    name        text primary key check (name ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$'),
    description text not null default '',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);
-- Editions that tenants have been given by name alone.
insert into rowhouse.editions (name)
    select distinct edition from rowhouse.tenants where edition ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' on conflict do nothing;

create table rowhouse.edition_values (
    edition    text not null references rowhouse.editions,
    key        text not null,
    value      jsonb not null,
    updated_at timestamptz not null default now(),
    primary key (edition, key)
);

-- What an application asks for. Its value for a tenant is the tenant's own, else its edition's, else the one here.
create table rowhouse.features (
    key         text primary key check (key ~ '^[a-z][a-z0-9_.-]{0,62}$'),
    value       jsonb not null check (jsonb_typeof(value) in ('boolean', 'number', 'string')),
    parent      text references rowhouse.features, -- a feature is off where its parent is
    visible     boolean not null default false,    -- to a tenant's clients
    description text not null default '',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);

create constraint trigger note_change after insert or update or delete on rowhouse.editions
    deferrable initially deferred for each row execute function rowhouse.note_change('plan', 'none');
create constraint trigger note_change after insert or update or delete on rowhouse.edition_values
    deferrable initially deferred for each row execute function rowhouse.note_change('plan', 'none');
create constraint trigger note_change after insert or update or delete on rowhouse.features
    deferrable initially deferred for each row execute function rowhouse.note_change('plan', 'none');
