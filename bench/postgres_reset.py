"""Resetting a PostgreSQL 15 between the tests of a suite: relive beside what suites do today (bench/run, part postgres-reset).

Each test dirties some rows in ten tables of many. Then the database is reset, and asked a first question; the time of both is measured, by the
test's own connection where that survives, else with a new one. Every way has a server of its own with the same seed; they take turns, so that all
meet the machine in one mood. A test fails if it sees what another test has left.

    relive          rollback of the whole server with its data directory (--files); connections stay
    wal_log         drop database, create database ... template ... strategy wal_log, new connection
    file_copy       the same with strategy file_copy
    re-seed ten     truncate and copy the ten tables that the test has written to: if the suite knew which
    re-seed all     truncate and copy all tables
    restart         stop -m immediate, copy the data directory anew, start, new connection
"""

import os
import pathlib
import pwd
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import typing

PROGRAMS = pathlib.Path("/usr/lib/postgresql/15/bin")
TEN = 10
ROW_BYTES = 340  # on disk, with its entry in the primary key's index
median = statistics.median


class Plan(typing.NamedTuple):
    tables: int = 300
    mib: int = 200
    connections: int = 10
    shared_buffers: int = 128  # MB; PostgreSQL's own default


class Connection:
    """PostgreSQL's protocol, as much of it as a test needs (simple queries, results as text)."""

    def __init__(self, directory, database):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{directory}/.s.PGSQL.5432")
        words = b"".join(word.encode() + b"\0" for word in ("user", "postgres", "database", database)) + b"\0"
        self.socket.sendall(struct.pack("!ii", 8 + len(words), 3 << 16) + words)
        self.rest = b""
        self.answer()

    def message(self):
        while len(self.rest) < 5 or len(self.rest) < 1 + struct.unpack("!i", self.rest[1:5])[0]:
            more = self.socket.recv(1 << 16)
            if not more:
                sys.exit("bench: PostgreSQL hung up")
            self.rest += more
        end = 1 + struct.unpack("!i", self.rest[1:5])[0]
        kind, body, self.rest = self.rest[:1], self.rest[5:end], self.rest[end:]
        return kind, body

    def answer(self):
        """The first column of each row."""
        rows = []
        while True:
            kind, body = self.message()
            if kind == b"E":
                sys.exit(f"bench: PostgreSQL: {body}")
            if kind == b"D":
                length = struct.unpack("!i", body[2:6])[0]
                rows.append(body[6 : 6 + length].decode() if length >= 0 else None)
            if kind == b"Z":
                return rows

    def ask(self, text):
        body = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", 4 + len(body)) + body)
        return self.answer()

    def close(self):
        self.socket.sendall(b"X\0\0\0\4")
        self.socket.close()


class Server:
    """A PostgreSQL on a copy of a seeded data directory, with connections to its database."""

    def __init__(self, folder, name, seed, plan):
        self.plan, self.seed = plan, seed
        self.directory = folder / name
        self.data = self.directory / "data"
        self.process = None
        make_directory(self.directory)
        self.fill()
        self.start()
        self.database = "app"
        self.pool = []

    def fill(self):
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(["cp", "-a", self.seed, self.data], check=True)

    def start(self):
        self.process = subprocess.Popen([*as_postgres(), PROGRAMS / "postgres", "-D", self.data, "-k", self.directory], cwd=self.directory,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.directory / "log", "ab"))
        while subprocess.run([PROGRAMS / "pg_isready", "-q", "-h", self.directory]).returncode != 0:
            if self.process.poll() is not None:
                sys.exit(f"bench: PostgreSQL does not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.005)

    def stop(self, how="fast"):
        subprocess.run([*as_postgres(), PROGRAMS / "pg_ctl", "-D", self.data, "-m", how, "-w", "-s", "stop"], check=True, cwd=self.directory)
        self.process.wait()

    def connect(self, database=None):
        return Connection(self.directory, database or self.database)

    def fill_pool(self):
        self.pool = [self.connect() for _ in range(self.plan.connections)]
        for connection in self.pool:  # each has its caches
            connection.ask("select count(*) from t1")
        # What fits into its buffers is there, as in a server that has worked for a while.
        for table in range(1, self.plan.tables + 1):
            self.pool[0].ask(f"select count(*) from t{table} where ref < 1000")

    def empty_pool(self):
        for connection in self.pool:
            connection.close()
        self.pool = []

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.stop("immediate")


def as_postgres():
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"] if os.geteuid() == 0 else []


def make_directory(path):
    path.mkdir()
    if as_postgres():
        shutil.chown(path, "postgres")


def can_run():
    """Why not; empty where it can."""
    if not (PROGRAMS / "postgres").exists():
        return "needs postgresql: PostgreSQL 15 is not installed"
    if os.geteuid() == 0 and not any(user.pw_name == "postgres" for user in pwd.getpwall()):
        return "needs postgresql: there is no user postgres"
    return ""


def make_seed(folder, plan):
    """A stopped server's data directory, and the same rows as files for COPY."""
    make_directory(folder / "seed")
    make_directory(folder / "rows")
    seed = folder / "seed/data"
    subprocess.run([*as_postgres(), PROGRAMS / "initdb", "-D", seed, "-U", "postgres", "-A", "trust", "-N", "--no-locale"], check=True,
                   cwd=folder, stdout=subprocess.DEVNULL)
    with open(seed / "postgresql.conf", "a") as configuration:
        configuration.write(f"listen_addresses = ''\nshared_buffers = {plan.shared_buffers}MB\nfsync = off\nsynchronous_commit = off\n"
                            "full_page_writes = off\nmax_connections = 60\nlog_min_messages = warning\n")
    server = Server.__new__(Server)
    server.plan, server.directory, server.data, server.database = plan, folder / "seed", seed, "app"
    server.start()
    try:
        server.connect("postgres").ask("create database app")
        connection = server.connect()
        rows = (plan.mib << 20) // plan.tables // ROW_BYTES
        for table in range(1, plan.tables + 1):
            connection.ask(f"create table t{table} (id integer primary key, ref integer not null, name text not null, note text not null);"
                           f"insert into t{table} select i, i % 97, 'name of ' || i, repeat(md5(i::text), 8) from generate_series(1, {rows}) i;"
                           f"copy t{table} to '{folder}/rows/t{table}'")
        connection.ask("vacuum analyze")
        connection.ask("checkpoint")
        size = int(connection.ask("select pg_database_size('app')")[0])
        connection.close()
    finally:
        server.stop()
    return seed, rows, size


class Test:
    """What one test does: reads ten tables, writes some rows of each, reads them again."""

    def __init__(self, plan, rows, number):
        chosen = random.Random(number)
        self.tables = chosen.sample(range(1, plan.tables + 1), TEN)
        self.keys = [chosen.randrange(1, rows + 1) for _ in range(3)]
        self.rows = rows
        self.number = number

    def run(self, connection, alone=True):
        """`alone`: nobody else's changes may be there."""
        for table in self.tables:
            keys = ",".join(map(str, self.keys))
            count = connection.ask(f"select count(*) from t{table} where ref < 1000")
            if alone and count != [str(self.rows)]:
                sys.exit(f"bench: test {self.number} sees what another one has left in t{table}: {count}")
            connection.ask(f"begin; update t{table} set ref = ref + 1000, note = 'changed' where id in ({keys});"
                           f"insert into t{table} values ({self.rows + 1 + self.number}, 5000, 'new', 'new');"
                           f"delete from t{table} where id = {self.keys[0]}; commit")
            changed = connection.ask(f"select count(*) from t{table} where ref >= 1000")
            if alone and changed != [str(len(set(self.keys)))]:
                sys.exit(f"bench: test {self.number}: {changed} rows of t{table} are changed")


class Relive:
    """One long-lived caller."""

    def __init__(self, server, command):
        self.server, self.command = server, command
        server.fill_pool()
        server.pool[0].ask("checkpoint")
        self.taken, _ = command("relive", "snapshot", server.process.pid, "--name", "bench", "--files", server.data)
        self.reports = []

    def connection(self):
        return self.server.pool[0]

    def reset(self, _):
        report, _ = self.command("rollback", "--to", "bench", self.server.process.pid)
        self.reports.append(report)
        self.server.pool[0].ask("select count(*) from t1 where id = 1")

    def end(self):
        self.command("relive", "drop", "bench", self.server.process.pid)


class Template:
    def __init__(self, server, strategy):
        self.server = server
        server.database = "test"
        self.admin = server.connect("postgres")
        self.admin.ask("alter database app is_template true")
        self.make = f"create database test template app strategy {strategy}"
        self.admin.ask(self.make)
        self.one = server.connect()

    def connection(self):
        return self.one

    def reset(self, _):
        self.one.close()
        self.admin.ask("drop database test with (force)")
        self.admin.ask(self.make)
        self.one = self.server.connect()
        self.one.ask("select count(*) from t1 where id = 1")

    def end(self):
        self.one.close()
        self.admin.close()


class Reseed:
    def __init__(self, server, folder, all_tables):
        self.server, self.folder, self.all_tables = server, folder, all_tables
        self.one = server.connect()

    def connection(self):
        return self.one

    def reset(self, test):
        tables = range(1, self.server.plan.tables + 1) if self.all_tables else test.tables
        self.one.ask("begin; truncate " + ",".join(f"t{table}" for table in tables) + ";" +
                     ";".join(f"copy t{table} from '{self.folder}/rows/t{table}'" for table in tables) + "; commit")
        self.one.ask("select count(*) from t1 where id = 1")

    def end(self):
        self.one.close()


class Restart:
    def __init__(self, server):
        self.server = server
        self.one = server.connect()

    def connection(self):
        return self.one

    def reset(self, _):
        self.one.socket.close()
        self.server.stop("immediate")
        self.server.fill()
        self.server.start()
        self.one = self.server.connect()
        self.one.ask("select count(*) from t1 where id = 1")

    def end(self):
        self.one.close()


def one_reset(way, test):
    """Milliseconds from the call to the first answer."""
    test.run(way.connection())
    begin = time.perf_counter()
    way.reset(test)
    return (time.perf_counter() - begin) * 1e3


def compare(ways, plan, rows, rounds):
    """Each way in turn; the slow ones only now and then."""
    took = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            if name != "relive" and number % max(1, rounds // 5) != 0:
                continue
            spent = one_reset(way, Test(plan, rows, number))
            if number >= (2 if name == "relive" else 1):  # the first ones map and learn
                took[name].append(spent)
    return took


def suite(relive, plan, rows, tests):
    """Seconds that the same tests take without any reset and with relive, in turns of a quarter of them."""
    free = with_resets = 0.0
    for begin in range(0, tests, tests // 4):
        quarter = [Test(plan, rows, number) for number in range(begin, begin + tests // 4)]
        start = time.perf_counter()
        for test in quarter:
            test.run(relive.connection(), alone=False)
        free += time.perf_counter() - start
        relive.reset(quarter[-1])
        start = time.perf_counter()
        for test in quarter:
            test.run(relive.connection())
            relive.reset(test)
        with_resets += time.perf_counter() - start
    return free, with_resets


def stages_of(reports):
    names = {stage["name"]: [] for report in reports for stage in report["stages"]}
    for report in reports:
        for name, spent in names.items():
            spent.append(sum(stage["us"] for stage in report["stages"] if stage["name"] == name))
    return {name: median(spent) for name, spent in names.items()}


def measure(plan, rounds, tests, command, bar):
    """Prints the tables. `command` runs one of relive's, `bar` notes what was to be reached (bench/run)."""
    if reason := can_run():
        print(f"\npostgres-reset: {reason}")
        return None
    with tempfile.TemporaryDirectory(prefix="rb-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o711)
        servers = []
        try:
            seed, rows, size = make_seed(folder, plan)

            def server(of):
                servers.append(Server(folder, of, seed, plan))
                return servers[-1]

            ways = {"relive": Relive(server("r"), command),
                    "template wal_log": Template(server("w"), "wal_log"),
                    "template file_copy": Template(server("f"), "file_copy"),
                    "re-seed ten": Reseed(server("t"), folder, False),
                    "re-seed all": Reseed(server("a"), folder, True),
                    "restart": Restart(server("s"))}
            took = compare(ways, plan, rows, rounds)
            relive = ways.pop("relive")
            reports = relive.reports[2:]
            for way in ways.values():
                way.end()
            for one in servers[1:]:
                one.end()
            free, with_resets = suite(relive, plan, rows, tests)
            relive.end()
        finally:
            for one in servers:
                one.end()
    result = {"tables": plan.tables, "bytes": size, "connections": plan.connections, "shared_buffers": plan.shared_buffers,
              "ms": {name: median(spent) for name, spent in took.items()}, "least_ms": {name: min(spent) for name, spent in took.items()},
              "frozen_us": median(report["frozen_us"] for report in reports), "stages_us": stages_of(reports),
              "tasks": reports[-1]["tasks"], "files": reports[-1]["files"], "tests": tests, "suite_s": {"free": free, "relive": with_resets}}
    print(f"# {result}", file=sys.stderr)
    ours = result["ms"]["relive"]
    print(f"\n| PostgreSQL, {plan.tables} tables, {size >> 20} MiB, shared_buffers {plan.shared_buffers} MB, {plan.connections} connections: reset by | ms | of relive's |")
    print("|:--|--:|--:|")
    for name, spent in result["ms"].items():
        print(f"| {name} | {spent:,.1f} | {spent / ours:.1f} |")
    print(f"\nrelive: frozen {result['frozen_us'] / 1e3:.1f} ms. A suite of {tests} tests: {free:.2f} s without any reset, {with_resets:.2f} s with relive: "
          f"{with_resets / free:.2f} times ({free / tests * 1e3:.1f} ms a test).")
    best = min((spent, name) for name, spent in result["ms"].items() if name != "relive")
    bar("PostgreSQL: whole reset", ours, 10, "ms")
    bar(f"PostgreSQL: reset by relive / by the best of the others ({best[1]})", ours / best[0], 0.1, "")
    bar("PostgreSQL: suite with relive / without any reset", with_resets / free, 1.3, "")
    return result
