-- A tenant's end: what undelete gives back, and since when nothing can be given back.
alter table rowhouse.tenants add column state_before text;
alter table rowhouse.tenants add column purge_began timestamptz;

-- Bringing a database to the state of its tenant changes nothing that another operation works on, and an operation must not
-- keep a tenant from being suspended.
drop index rowhouse.operations_tenant;
create unique index operations_tenant on rowhouse.operations (tenant)
    where tenant is not null and kind not in ('tenant.clear', 'tenant.enforce') and state not in ('done', 'failed', 'cancelled');
