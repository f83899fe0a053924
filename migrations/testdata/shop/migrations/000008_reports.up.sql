-- July. What the owner wants to see in the morning.
create view shop.order_totals as
  select o.id, o.number, o.state, o.currency, o.placed_at, count(i.line) as lines, coalesce(sum(i.total), 0) as total
  from shop.orders o left join shop.order_items i on i.order_id = o.id
  group by o.id, o.number, o.state, o.currency, o.placed_at;

create view shop.bestsellers as
  select p.sku, p.name, sum(i.quantity) as sold, rank() over (order by sum(i.quantity) desc, p.sku) as place
  from shop.products p join shop.order_items i on i.product_id = p.id join shop.orders o on o.id = i.order_id
  where o.state not in ('cart', 'cancelled')
  group by p.sku, p.name;

create function shop.category_path(category uuid) returns text
  language sql stable
  as $$
    with recursive up as (
      select parent_id, slug, 1 as depth from shop.categories where id = category
      union all
      select c.parent_id, c.slug, up.depth + 1 from up join shop.categories c on c.id = up.parent_id
    )
    select string_agg(slug, '/' order by depth desc) from up
  $$;

create function shop.search_products(words text) returns table (sku text, name text, rank real)
  language sql stable
  as $$
    select p.sku, p.name, ts_rank(p.search, q)
    from shop.products p, websearch_to_tsquery('english', words) q
    where p.search @@ q
    order by 3 desc, 1
  $$;

create function shop.stars(product shop.products) returns numeric
  language sql stable
  as $$ select round(avg(r.stars), 2) from shop.reviews r where r.product_id = product.id $$;
