-- September.
create table shop.tickets (
  id          uuid primary key default gen_random_uuid(),
  number      bigint not null unique,
  customer_id uuid not null references shop.customers on delete cascade,
  order_id    uuid references shop.orders on delete set null,
  subject     text not null,
  opened_at   timestamptz not null,
  closed_at   timestamptz,
  check (closed_at >= opened_at)
);
create index tickets_open on shop.tickets (opened_at) where closed_at is null;

create table shop.ticket_messages (
  ticket_id uuid not null references shop.tickets on delete cascade,
  position  int not null,
  reply_to  int,
  author    text not null,
  body      text not null,
  words     tsvector generated always as (to_tsvector('english', body)) stored,
  primary key (ticket_id, position),
  foreign key (ticket_id, reply_to) references shop.ticket_messages on delete set null (reply_to)
);
create index ticket_messages_words on shop.ticket_messages using gin (words);
