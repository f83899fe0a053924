-- What a tenant decides itself lives with its rows and moves with them: its users, their roles, its settings and its audit. They are
-- bound tables like an application's.

create table rowhouse.users (
  id                uuid primary key default gen_random_uuid(),
  email             text not null check (email = lower(email) and length(email) <= 320),
  name              text not null default '',
  password_hash     text, -- null: signs in elsewhere, or has not accepted the invitation
  state             text not null default 'invited' check (state in ('invited', 'active', 'disabled')),
  email_verified_at timestamptz,
  last_sign_in_at   timestamptz,
  created_at        timestamptz not null default now(),
  updated_at        timestamptz not null default now(),
  unique (email)
);

create table rowhouse.roles (
  name        text primary key check (name ~ '^[a-z][a-z0-9_.-]{0,62}$'),
  description text not null default '',
  created_at  timestamptz not null default now()
);

create table rowhouse.user_roles (
  user_id    uuid references rowhouse.users on delete cascade,
  role       text references rowhouse.roles on update cascade on delete cascade,
  granted_at timestamptz not null default now(),
  primary key (user_id, role)
);
create index user_roles_role on rowhouse.user_roles (role);

create table rowhouse.permissions (
  role       text references rowhouse.roles on update cascade on delete cascade,
  permission text check (length(permission) between 1 and 200),
  granted_at timestamptz not null default now(),
  primary key (role, permission)
);

create table rowhouse.settings (
  key        text primary key check (length(key) between 1 and 200),
  value      jsonb not null,
  updated_by uuid, -- a user, or null; not a foreign key: the setting outlives the user
  updated_at timestamptz not null default now()
);

create table rowhouse.audit (
  id           uuid primary key default gen_random_uuid(),
  at           timestamptz not null default now(),
  actor        text not null default '', -- the token's subject; users come and go, so it is no foreign key
  impersonator text not null default '',
  action       text not null check (action <> ''),
  target       text not null default '',
  detail       jsonb not null default '{}',
  request_id   text not null default ''
);
create index audit_at on rowhouse.audit (at);

select rowhouse.bind_relation('rowhouse.users', 'bind');
select rowhouse.bind_relation('rowhouse.roles', 'bind');
select rowhouse.bind_relation('rowhouse.user_roles', 'bind');
select rowhouse.bind_relation('rowhouse.permissions', 'bind');
select rowhouse.bind_relation('rowhouse.settings', 'bind');
select rowhouse.bind_relation('rowhouse.audit', 'bind');

-- A tenant's own users reach these tables only through rowhouse's endpoints, which work as service_role; what an application's
-- policies want to look up is readable. Password hashes are not.
revoke all on rowhouse.users, rowhouse.roles, rowhouse.user_roles, rowhouse.permissions, rowhouse.settings, rowhouse.audit
  from authenticated;
grant select on rowhouse.roles, rowhouse.user_roles, rowhouse.permissions, rowhouse.settings to authenticated;
-- An audit trail grows. It is written in the transaction of the change it tells of, whichever role that has.
revoke update, delete on rowhouse.audit from service_role;
grant insert on rowhouse.audit to anon, authenticated;
