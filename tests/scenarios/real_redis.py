#!/usr/bin/env python3
"""Debian's Redis with 100,000 keys: taken back after FLUSHALL, and two hundred times under redis-benchmark's load."""

import shutil
import socket
import subprocess

import harness

KEYS = 100_000
ROUNDS = 200
COMMANDS = 2000  # that the load has got through at least, before it is taken back


class Redis:
    """The server, spoken to over a new connection each time: a rollback closes those that were opened since."""

    def __init__(self, scene, *options):
        self.scene = scene
        self.options = options
        self.start()

    def start(self):
        scene = self.scene
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with open(scene.directory / "redis.log", "w") as log:
            self.process = scene.start(
                ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                 "--enable-debug-command", "yes", "--dir", scene.directory, "--daemonize", "no", *self.options], stdout=log, stderr=log)
        self.pid = self.process.pid
        harness.wait_until("redis-server answers", self.answers)

    def answers(self):
        harness.expect(self.process.poll() is None, "redis-server ended")
        try:
            return self.ask("PING") == "PONG"
        except (OSError, harness.Failure):  # not there yet, or loading its file
            return False

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=harness.PATIENCE_S)

    def ask(self, *words):
        with self.connect() as connection:
            return self.ask_over(connection, *words)

    def ask_over(self, connection, *words):
        connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in (str(w).encode() for w in words)))
        with connection.makefile("rb") as answer:
            return self.read(answer)

    def read(self, answer):
        line = answer.readline()
        harness.expect(line.endswith(b"\r\n"), f"redis-server hung up: {line!r}")
        kind, rest = chr(line[0]), line[1:-2].decode()
        if kind == "-":
            raise harness.Failure(f"redis-server: {rest}")
        if kind == "$":
            return None if rest == "-1" else answer.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == "*":
            return [self.read(answer) for _ in range(int(rest))]
        return int(rest) if kind == ":" else rest

    def info(self, name):
        for line in self.ask("INFO", "everything").splitlines():
            if line.startswith(name + ":"):
                return line.split(":", 1)[1]
        raise harness.Failure(f"INFO lacks {name}")

    def content(self):
        return {"keys": self.ask("DBSIZE"), "digest": self.ask("DEBUG", "DIGEST"), "pid": int(self.info("process_id"))}

    def commands(self):
        return int(self.info("total_commands_processed"))


def fill(redis):
    redis.ask("DEBUG", "POPULATE", KEYS, "key", 100)
    for n in range(200):
        redis.ask("RPUSH", f"list:{n}", *range(n + 1))
        redis.ask("ZADD", f"sorted:{n}", *(x for m in range(n + 1) for x in (m * 7 % 100, m)))
        redis.ask("HSET", f"hash:{n}", *(x for m in range(n + 1) for x in (f"field{m}", m)))


def wreck(redis, how):
    if how % 3 == 0:
        redis.ask("FLUSHALL")
        redis.ask("DEBUG", "POPULATE", 1000, "other", 500)
    if how % 3 == 1:
        redis.ask("CONFIG", "SET", "maxmemory", "1gb")
        redis.ask("RENAME", "key:1", "key:stolen")


def connections(scene, redis, tracker):
    """To peers outside: open at the snapshot and since, kept; opened since, closed; closed since, gone."""
    with redis.connect() as kept, redis.connect() as gone:
        redis.ask_over(kept, "CLIENT", "SETNAME", "kept")
        redis.ask_over(gone, "CLIENT", "SETNAME", "gone")
        scene.snapshot(redis.pid, "connected", tracker)
        harness.expect_equal("answer to the kept connection", redis.ask_over(kept, "SELECT", 5), "OK")
        gone.close()
        with redis.connect() as new:
            redis.ask_over(new, "SET", "new", "connection")
            scene.rollback(redis.pid, "connected")
            try:
                harness.expect_equal("what the new connection reads", new.recv(1), b"")
            except ConnectionResetError:
                pass
        harness.expect_equal("name of the kept connection", redis.ask_over(kept, "CLIENT", "GETNAME"), "kept")
        harness.expect_equal("key that was set since", redis.ask("EXISTS", "new"), 0)
    scene.drop(redis.pid)


def test(scene, tracker, words):
    if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
        raise harness.Skip("needs redis: a server to take back")
    redis = Redis(scene)
    connections(scene, redis, tracker)
    fill(redis)
    wanted = redis.content()
    harness.expect_equal("pid", wanted["pid"], redis.pid)
    harness.expect_equal("keys", wanted["keys"], KEYS + 600)
    scene.snapshot(redis.pid, "filled", tracker)
    harness.expect_equal("content with an armed tracker", redis.content(), wanted)

    redis.ask("FLUSHALL")
    harness.expect_equal("keys after FLUSHALL", redis.ask("DBSIZE"), 0)
    report = scene.rollback(redis.pid, "filled")
    print(f"{tracker}: after FLUSHALL: {report['pages']} pages, frozen {report['frozen_us']} us, {report['total_us']} us in all")
    harness.expect_equal("content after the rollback", redis.content(), wanted)

    for how in range(words.rounds):
        before = redis.commands()
        load = scene.start(["redis-benchmark", "-h", "127.0.0.1", "-p", redis.port, "-c", 20, "-n", 100_000_000, "-r", 200_000,
                            "-t", ("set,lpush", "hset,zadd", "incr,sadd")[how % 3], "-q"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        harness.wait_until("the load is on", lambda: redis.commands() > before + COMMANDS)
        wreck(redis, how)
        scene.rollback(redis.pid, "filled")
        harness.end_process(load)
        scene.processes.remove(load)
        harness.expect_equal(f"content after rollback {how} under load", redis.content(), wanted)
    scene.drop(redis.pid)
    harness.expect_equal("content after the drop", redis.content(), wanted)


if __name__ == "__main__":
    harness.main(test, ("--rounds", {"type": int, "default": ROUNDS}))
