"""Carts, rate limits and a queue. No test cleans up."""

import pytest


@pytest.fixture(autouse=True)
def seeded(client):
    assert client.dbsize() == 10_001


def buy(client, cart, product, quantity):
    """Takes from the stock what goes into the cart."""
    if client.hincrby(product, "stock", -quantity) < 0:
        client.hincrby(product, "stock", quantity)
        raise LookupError(product)
    client.hincrby(cart, product, quantity)


def test_a_cart_takes_from_the_stock(client):
    buy(client, "cart:1", "product:7", 4)
    assert client.hget("product:7", "stock") == "6"
    assert client.hgetall("cart:1") == {"product:7": "4"}


def test_what_is_not_there_cannot_be_bought(client):
    with pytest.raises(LookupError):
        buy(client, "cart:1", "product:7", 11)
    assert client.hget("product:7", "stock") == "10"


@pytest.mark.parametrize("price, count", [(0, 100), (50, 5100), (99, 10_000)])
def test_search_by_price(client, price, count):
    assert client.zcount("by-price", 0, price) == count


@pytest.mark.parametrize("round_", range(3))
def test_a_rate_limit_starts_anew(client, round_):
    assert [client.incr("calls:customer-1") for _ in range(5)] == [1, 2, 3, 4, 5]
    client.expire("calls:customer-1", 60)


def test_a_queue(client):
    client.rpush("jobs", *range(1000))
    assert [client.lpop("jobs") for _ in range(3)] == ["0", "1", "2"]


def test_everything_may_be_wrecked(client):
    client.flushall()
    assert client.dbsize() == 0


def test_and_nobody_notices(client):
    assert client.hget("product:9999", "title") == "product 9999"
