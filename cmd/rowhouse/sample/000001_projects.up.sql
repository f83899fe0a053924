-- The sample application: projects and their tasks. It is written for one tenant; the two lines with bind make every row
-- belong to one, every key lead with the tenant, and every other tenant's rows invisible.

create type task_state as enum ('open', 'doing', 'done');

create table projects (
    id         uuid primary key default gen_random_uuid(),
    name       text not null unique,
    status     text not null default 'active',
    budget     numeric(12, 2),
    labels     jsonb not null default '{}',
    created_at timestamptz not null default now()
);

create table tasks (
    id         uuid primary key default gen_random_uuid(),
    project_id uuid not null references projects on delete cascade,
    title      text not null,
    state      task_state not null default 'open',
    position   integer not null default 0,
    due        date,
    created_at timestamptz not null default now()
);
create index tasks_project on tasks (project_id, position);

select rowhouse.bind('projects');
select rowhouse.bind('tasks');
