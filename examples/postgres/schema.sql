-- A shop: who buys what, and what is left of it.
create table customers (
  id integer primary key generated always as identity,
  email text not null unique check (email like '%@%'),
  name text not null,
  joined date not null default current_date
);

create table products (
  id integer primary key generated always as identity,
  title text not null,
  price numeric(10, 2) not null check (price > 0),
  stock integer not null check (stock >= 0)
);
create index products_by_title on products using gin (to_tsvector('english', title));

create type order_state as enum ('open', 'paid', 'cancelled');
create table orders (
  id integer primary key generated always as identity,
  customer integer not null references customers on delete cascade,
  state order_state not null default 'open',
  placed timestamptz not null default now()
);
create index orders_by_customer on orders (customer, placed desc);

create table order_lines (
  "order" integer not null references orders on delete cascade,
  product integer not null references products,
  quantity integer not null check (quantity > 0),
  primary key ("order", product)
);

-- What is ordered leaves the stock; what is cancelled comes back.
create function take_from_stock() returns trigger language plpgsql as $$
begin
  update products set stock = stock - new.quantity where id = new.product;
  return new;
end $$;
create trigger order_line_added after insert on order_lines for each row execute function take_from_stock();

create function give_back_to_stock() returns trigger language plpgsql as $$
begin
  update products set stock = stock + line.quantity from order_lines line where line."order" = new.id and products.id = line.product;
  return new;
end $$;
create trigger order_cancelled after update of state on orders for each row
  when (new.state = 'cancelled' and old.state <> 'cancelled') execute function give_back_to_stock();

create view revenue as
  select orders.customer, sum(line.quantity * products.price) as total
  from orders join order_lines line on line."order" = orders.id join products on products.id = line.product
  where orders.state = 'paid' group by orders.customer;
