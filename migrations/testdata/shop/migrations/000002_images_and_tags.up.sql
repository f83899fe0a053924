-- January.
create table shop.product_images (
  product_id uuid not null references shop.products on delete cascade,
  position   int not null,
  url        text not null,
  alt        text not null default '',
  primary key (product_id, position)
);

create table shop.tags (
  name  text primary key,
  color text not null default 'grey'
);

create table shop.product_tags (
  product_id uuid references shop.products on delete cascade,
  tag        text references shop.tags on update cascade on delete cascade,
  primary key (product_id, tag)
);
create index product_tags_tag on shop.product_tags (tag);
