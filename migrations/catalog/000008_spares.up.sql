-- Operations that can be taken back, and databases that are made before somebody asks for them.

-- What was asked of an operation that is to end early, and what became of its effects when it did.
alter table rowhouse.operations
    add column cancel text check (cancel in ('keep', 'undo')),
    add column effects text check (effects in ('kept', 'undone'));

-- How many databases stand ready on a server.
alter table rowhouse.servers add column spares integer not null default 0 check (spares between 0 and 1000);

-- It was made and looked at before a tenant took it: of making it nothing is left but its name.
alter table rowhouse.databases add column spare boolean not null default false;
create index databases_spares on rowhouse.databases (server, created_at) where state = 'spare';
