-- June.
create table shop.reviews (
  id          uuid primary key default gen_random_uuid(),
  product_id  uuid not null references shop.products on delete cascade,
  customer_id uuid references shop.customers on delete set null,
  stars       smallint not null check (stars between 1 and 5),
  body        text not null default '',
  written_at  timestamptz not null default now(),
  constraint reviews_one_each unique nulls not distinct (product_id, customer_id)
);
create index reviews_words on shop.reviews using gin (to_tsvector('english', body));

create table shop.review_votes (
  review_id   uuid references shop.reviews on delete cascade,
  customer_id uuid references shop.customers on delete cascade,
  up          boolean not null,
  primary key (review_id, customer_id)
);
