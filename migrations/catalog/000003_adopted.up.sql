-- A database that rowhouse did not make keeps its own roles, and has no rowhouse.identity to be known by.

-- The roles that requests may run as in this database; empty means anon, authenticated and service_role.
alter table rowhouse.databases add column roles text[] not null default '{}';

-- Which database an adopted one was when it was taken: the cluster's system identifier and the database's oid. Every new
-- connection is compared with it.
alter table rowhouse.databases add column identity text not null default '';
