-- The keys that a live process opens secrets with, the one that it seals with first: a new one is used when all have it.
alter table rowhouse.instances add column keys text[] not null default '{}';
