"""No test cleans up, and each counts on the very rows of the seed."""

import psycopg2
import pytest

PRODUCT = 42


def one(rows):
    ((value,),) = rows
    return value


def place(ask, customer, product, quantity):
    order = one(ask("insert into orders (customer) values (%s) returning id", customer))
    ask('insert into order_lines ("order", product, quantity) values (%s, %s, %s)', order, product, quantity)
    return order


def stock(ask, product=PRODUCT):
    return one(ask("select stock from products where id = %s", product))


def counts(ask):
    return [one(ask(f"select count(*) from {table}")) for table in ("customers", "products", "orders", "order_lines")]


@pytest.fixture(autouse=True)
def seeded(ask):
    assert counts(ask) == [2000, 1000, 15000, 30000]


def test_an_order_takes_from_the_stock(ask):
    before = stock(ask)
    assert place(ask, 1, PRODUCT, 3) == 15001  # sequences go back, too
    assert stock(ask) == before - 3


def test_a_cancelled_order_gives_back(ask):
    before = stock(ask)
    order = place(ask, 1, PRODUCT, 3)
    assert order == 15001
    ask("update orders set state = 'cancelled' where id = %s", order)
    assert stock(ask) == before


def test_nobody_buys_more_than_there_is(ask):
    with pytest.raises(psycopg2.errors.CheckViolation):
        place(ask, 1, PRODUCT, stock(ask) + 1)


def test_a_customer_leaves(ask):
    orders = one(ask("select count(*) from orders where customer = 7"))
    ask("delete from customers where id = 7")
    assert counts(ask)[:3] == [1999, 1000, 15000 - orders]


def test_two_customers_cannot_share_an_address(ask):
    with pytest.raises(psycopg2.errors.UniqueViolation):
        ask("update customers set email = 'customer-2@example.org' where id = 1")


def test_revenue_follows_payment(ask):
    before = one(ask("select total from revenue where customer = 6"))
    order = place(ask, 6, PRODUCT, 2)
    ask("update orders set state = 'paid' where id = %s", order)
    price = one(ask("select price from products where id = %s", PRODUCT))
    assert one(ask("select total from revenue where customer = 6")) == before + 2 * price


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow"])
def test_search_finds_a_colour(ask, colour):
    assert one(ask("select count(*) from products where to_tsvector('english', title) @@ to_tsquery('english', %s)", colour)) == 250


def test_everything_may_be_wrecked(ask):
    ask("drop view revenue")
    ask("drop table order_lines, orders cascade")
    ask("create table rubbish as select n from generate_series(1, 10000) n")
    ask("create role intruder superuser login")


def test_and_nobody_notices(ask):
    assert one(ask("select count(*) from pg_roles where rolname = 'intruder'")) == 0
    assert one(ask("select count(*) from pg_class where relname = 'rubbish'")) == 0
