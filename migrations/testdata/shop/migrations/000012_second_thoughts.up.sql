-- October. What a year teaches.
alter type shop.order_state add value 'returned' after 'shipped';
alter type shop.product_state rename value 'retired' to 'archived';
alter table shop.orders rename column note to remark;
alter table shop.customers add column phone text, add column locale text not null default 'en';
alter table shop.addresses drop column is_default;
alter table shop.addresses add column label text;
create unique index addresses_label on shop.addresses (customer_id, lower(label)) where label is not null;
alter table shop.warehouses add column opened date not null default date '2025-05-01';
alter table shop.products add column parent_id uuid references shop.products on delete cascade;
alter table shop.products add constraint products_not_own_parent check (parent_id <> id);
create index products_parent on shop.products (parent_id) where parent_id is not null;

create function shop.touch() returns trigger
  language plpgsql
  as $$
begin
  new.updated_at := greatest(now(), old.updated_at);
  return new;
end
$$;
create trigger products_touch before update on shop.products for each row execute function shop.touch();
