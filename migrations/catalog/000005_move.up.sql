-- What a tenant's move from one database to another needs to know and to say.

alter table rowhouse.tenants
  -- Which placement this is, counted. It is the one in the gate of the tenant's database; 0: there is no gate, as in a database that
  -- rowhouse did not make, or of a tenant that was made before there were gates.
  add column placement_epoch bigint not null default 0,
  -- The tenant is about to change its database: routers ask the gate for reads too, and wait where it is shut.
  add column moving boolean not null default false;

-- How many tenants come to a server or leave it at once.
alter table rowhouse.servers add column move_slots integer not null default 2 check (move_slots > 0);

-- What a move leaves behind is cleared away a day later, by an operation that nothing else has to wait for.
drop index rowhouse.operations_tenant;
create unique index operations_tenant on rowhouse.operations (tenant)
  where tenant is not null and kind <> 'tenant.clear' and state not in ('done', 'failed', 'cancelled');
