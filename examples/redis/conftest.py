"""One Redis for all tests, with an append-only file: memory and file go back together."""

import shutil

import pytest
import redis
import relive


@pytest.fixture(scope="session")
def relive_stack(tmp_path_factory):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    data = tmp_path_factory.mktemp("redis")
    port = relive.free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "yes", "--dir", data]
    with relive.spawn(command, ready=f"127.0.0.1:{port}", files=[data]) as server:
        server.client = redis.Redis(port=port, decode_responses=True, single_connection_client=True)
        pipe = server.client.pipeline(transaction=False)
        for number in range(10_000):
            pipe.hset(f"product:{number}", mapping={"title": f"product {number}", "stock": 10})
            pipe.zadd("by-price", {f"product:{number}": number % 100})
        pipe.execute()
        yield server


@pytest.fixture
def client(relive_stack):
    return relive_stack.client
