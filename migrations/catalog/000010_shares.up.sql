-- What each process may have of each server's connections, so that all of them together never have more than its budget.

-- Where a process runs: of two that say the same (and not nothing), the earlier one is dead, because only one can be there.
alter table rowhouse.instances add column place text not null default '';
-- Counts a process's reports: one that arrives after a later one is not heard.
alter table rowhouse.instances add column round bigint not null default 0;

create table rowhouse.shares (
    server   uuid not null references rowhouse.servers on delete cascade,
    instance uuid not null references rowhouse.instances on delete cascade,
    -- What it was last granted, and the most that it said it may still have: the greater of both is not given to others.
    share    integer not null default 0,
    held     integer not null default 0,
    -- How many it could use.
    demand   integer not null default 0,
    -- What it keeps when it cannot ask any more, and what is kept for it when it is not heard of.
    floor    integer not null default 0,
    primary key (server, instance)
);
create index shares_instance on rowhouse.shares (instance);
