-- The same rows each time.
insert into customers (email, name, joined)
  select 'customer-' || n || '@example.org', 'Customer ' || n, date '2024-01-01' + n % 700 from generate_series(1, 2000) n;
insert into products (title, price, stock)
  select (array['red', 'green', 'blue', 'yellow'])[1 + n % 4] || ' ' || (array['chair', 'table', 'lamp'])[1 + n % 3] || ' ' || n, 5 + n % 95, 1000
  from generate_series(1, 1000) n;
insert into orders (customer, state, placed)
  select 1 + n % 2000, (array['open', 'paid', 'paid', 'cancelled'])[1 + n % 4]::order_state, timestamptz '2025-01-01 00:00Z' + n * interval '1 minute'
  from generate_series(1, 15000) n;
insert into order_lines ("order", product, quantity)
  select n, 1 + (n * 7 + k * 13) % 1000, 1 + n % 3 from generate_series(1, 15000) n, generate_series(1, 2) k;
