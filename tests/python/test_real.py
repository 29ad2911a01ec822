"""Redis and PostgreSQL, with clients whose connections are open at the snapshot and go on behind each rollback."""

import os
import pathlib
import shutil
import subprocess
import time

import relive

POSTGRES = pathlib.Path("/usr/lib/postgresql/15/bin")


def test_redis(tmp_path):
    import redis

    port = relive.free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with relive.spawn(command, ready=f"127.0.0.1:{port}") as server:
        client = redis.Redis(port=port, decode_responses=True)
        client.mset({f"key-{number}": number for number in range(1000)})
        address = client.client_info()["addr"]
        server.snapshot("seeded")
        for round in range(10):
            client.flushall()
            client.set("new", round)
            client.config_set("maxmemory", "64mb")
            assert server.rollback().fate == "done"
            assert client.dbsize() == 1000 and client.get("key-7") == "7" and client.get("new") is None
            assert client.config_get("maxmemory") == {"maxmemory": "0"}
            assert client.client_info()["addr"] == address  # the same connection
        client.close()


def test_postgresql(tmp_path):
    import psycopg2

    data = tmp_path / "data"
    user = []
    if os.geteuid() == 0:
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]
        for one in (tmp_path, *tmp_path.parents[:2]):
            os.chmod(one, 0o755)
        shutil.chown(tmp_path, "postgres")
    subprocess.run([*user, POSTGRES / "initdb", "-D", data, "-A", "trust", "-U", "app", "--no-sync"], check=True, stdout=subprocess.DEVNULL)
    command = [*user, POSTGRES / "postgres", "-D", data, "-k", tmp_path, "-c", "listen_addresses=", "-c", "fsync=off"]
    with relive.spawn(command, ready=str(tmp_path / ".s.PGSQL.5432"), files=[data]) as server:

        def connect():
            return psycopg2.connect(host=str(tmp_path), user="app", dbname="postgres")

        wait_until_it_serves(connect)
        connection = connect()
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("create table fruit (name text); insert into fruit values ('apple'), ('pear'); checkpoint")
        cursor.execute("select pg_backend_pid()")
        backend = cursor.fetchone()
        server.snapshot("seeded")
        for round in range(3):
            cursor.execute("delete from fruit; create table more (number int); insert into fruit values (%s)", (str(round),))
            assert server.rollback().fate == "done"
            cursor.execute("select name from fruit order by name")
            assert cursor.fetchall() == [("apple",), ("pear",)]
            cursor.execute("select count(*) from pg_class where relname = 'more'")
            assert cursor.fetchone() == (0,)
            cursor.execute("select pg_backend_pid()")
            assert cursor.fetchone() == backend  # the same connection
        connection.close()


def wait_until_it_serves(connect):
    """It listens before it lets anybody in."""
    end = time.monotonic() + 60
    while True:
        try:
            return connect().close()
        except Exception:
            assert time.monotonic() < end
            time.sleep(0.05)
