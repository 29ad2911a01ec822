#!/usr/bin/env python3
"""Debian's PostgreSQL 15 with twenty clients that stay connected: a snapshot, load by pgbench, the way back, fifty times.

Its data directory goes back with it.
"""

import os
import pathlib
import pwd
import shutil
import subprocess

import harness

ROUNDS = 50
CLIENTS = 20
PROGRAMS = pathlib.Path("/usr/lib/postgresql/15/bin")
ROWS = "select md5(string_agg(a::text, ',' order by aid)) from pgbench_accounts a"
SUMS = "select (select sum(abalance) from pgbench_accounts), (select count(*) from pgbench_history), (select sum(bbalance) from pgbench_branches)"


class Client:
    """A psql that stays connected, and answers one line a question."""

    def __init__(self, postgres):
        self.process = postgres.scene.start([*postgres.user, PROGRAMS / "psql", "-XAtq", "-h", postgres.directory, "-U", "postgres", "postgres"],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, question):
        self.process.stdin.write(question + ";\n")
        return self.process.stdout.readline().strip()


class Postgres:
    def __init__(self, scene):
        self.scene = scene
        self.user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"] if os.geteuid() == 0 else []
        self.directory = scene.directory / "pg"
        self.data = self.directory / "data"
        self.directory.mkdir()
        scene.directory.chmod(0o711)
        if self.user:
            shutil.chown(self.directory, "postgres")
        self.must(PROGRAMS / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "--no-locale")
        with open(self.data / "postgresql.conf", "a") as configuration:
            configuration.write(f"listen_addresses = ''\nunix_socket_directories = '{self.directory}'\nshared_buffers = 16MB\nfsync = off\n"
                                "max_connections = 60\nautovacuum_naptime = 1s\nlog_min_messages = warning\n")
        self.process = scene.start([*self.user, PROGRAMS / "postgres", "-D", self.data], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=open(scene.directory / "postgres.log", "wb"))
        self.pid = self.process.pid
        harness.wait_until("PostgreSQL answers", self.answers)

    def run(self, *words):
        return self.scene.run(*self.user, *words)

    def must(self, *words):
        status, out, err = self.run(*words)
        harness.expect_equal(f"{pathlib.Path(words[0]).name}: {err[-500:]}", status, 0)
        return out

    def answers(self):
        harness.expect(self.process.poll() is None, "PostgreSQL ended")
        return self.run(PROGRAMS / "pg_isready", "-q", "-h", self.directory)[0] == 0

    def query(self, text):
        return self.must(PROGRAMS / "psql", "-XAtq", "-h", self.directory, "-U", "postgres", "-c", text, "postgres")

    def bench(self, *words):
        return self.must(PROGRAMS / "pgbench", "-h", self.directory, "-U", "postgres", *words, "postgres")


def test(scene, tracker, words):
    if not (PROGRAMS / "postgres").exists() or not any(user.pw_name == "postgres" for user in pwd.getpwall()):
        raise harness.Skip("needs postgresql: a server to take back")
    postgres = Postgres(scene)
    postgres.bench("-i", "-s", "1", "-q")
    clients = [Client(postgres) for _ in range(CLIENTS)]
    backends = [client.ask("select pg_backend_pid()") for client in clients]
    postgres.query("checkpoint")
    rows, sums = postgres.query(ROWS), postgres.query(SUMS)
    taken = scene.snapshot(postgres.pid, "seeded", tracker, "--files", postgres.data)
    harness.expect(taken["files"] > 900 and taken["directories"] == [str(postgres.data)], f"files kept: {taken['files']}")
    for round_ in range(words.rounds if tracker != "compare" else min(words.rounds, 5)):
        postgres.bench("-n", "-c", "8", "-j", "2", "-t", "25", *(["-C"] if round_ % 2 else []))
        stay = [client for client in clients if client.process.poll() is None]
        for client in stay[round_ % 3 :: 3]:
            harness.expect_equal("a query", client.ask(f"select count(*) from pgbench_accounts where aid < {round_ + 2}"), str(round_ + 1))
        if round_ % 5 == 4:  # one that was there goes away
            clients[-1].process.stdin.close()
            clients[-1].process.wait()
            harness.wait_until("its backend has ended", lambda: not pathlib.Path(f"/proc/{backends[-1]}").exists())
        harness.expect(postgres.query(SUMS) != sums, "the load changed nothing")
        report = scene.rollback(postgres.pid, "seeded")
        harness.expect(report["files"] > 0 and report["file_bytes"] > 0, "no file was put back")
        harness.expect_equal(f"round {round_}: sums", postgres.query(SUMS), sums)
        stay = [client for client in clients if client.process.poll() is None]
        harness.expect_equal("the backends", [client.ask("select pg_backend_pid()") for client in stay], backends[: len(stay)])
    harness.expect_equal("every row", postgres.query(ROWS), rows)
    postgres.query("create extension if not exists amcheck")
    harness.expect_equal("pg_amcheck", postgres.run(PROGRAMS / "pg_amcheck", "-h", postgres.directory, "-U", "postgres", "--heapallindexed", "postgres")[:2], (0, ""))
    scene.drop(postgres.pid)
    harness.expect_equal("what is left beside the data", sorted(path.name for path in postgres.directory.glob(".relive*")), [])
    postgres.bench("-n", "-c", "4", "-t", "10")


if __name__ == "__main__":
    harness.main(test, ("--rounds", {"type": int, "default": ROUNDS}))
