#!/usr/bin/env python3
"""Debian's Redis with an append-only file: memory and file go back together, and agree when it starts anew from the file."""

import pathlib
import shutil
import subprocess

import harness
import real_redis

ROUNDS = 20
KEYS = 1000


def digest(redis):
    return redis.ask("DBSIZE"), redis.ask("DEBUG", "DIGEST")


def fill(redis):
    """Not by DEBUG POPULATE, which does not come into the file."""
    for n in range(KEYS):
        redis.ask("SET", f"key:{n}", f"value {n}" * 20)
    redis.ask("RPUSH", "list", *range(500))


def load(redis, round_):
    for n in range(200):
        redis.ask("SET", f"key:{n}", f"{round_} {n}")
    redis.ask("RPUSH", "list", *range(round_ + 1))
    if round_ % 4 == 1:
        redis.ask("FLUSHALL")
    if round_ % 4 == 2:  # the append-only file becomes another one, written by a child
        redis.ask("BGREWRITEAOF")
        harness.wait_until("the file is rewritten", lambda: redis.info("aof_rewrite_in_progress") == "0")


def start_anew(redis):
    redis.process.kill()
    redis.process.wait()
    redis.start()


def kill_in_the_middle(scene, redis, seeded):
    """The keeper dies at points of the way back: redis is as if nothing had been asked, or waits for its files."""
    undone = finished = 0
    point = 0
    while True:
        scene.snapshot(redis.pid, "crash", None, "--files", scene.directory / "data")
        load(redis, 1)
        wrecked = digest(redis)
        words = [str(word) for word in ("rollback", "--to", "crash", redis.pid, "--json")]
        done = subprocess.run([scene.build / "bin" / "relive", *words], env={**scene.environment, "RELIVE_FAULT": f"kill:{point}"}, capture_output=True, text=True)
        if done.returncode == 0:
            break
        again = subprocess.run([scene.build / "bin" / "relive", *words], env=scene.environment, capture_output=True, text=True)
        now = digest(redis)
        harness.expect(now in (seeded, wrecked), f"killed at point {point}: neither here nor there: {again.stdout} {again.stderr}")
        undone, finished = undone + (now == wrecked), finished + (now == seeded)
        start_anew(redis)
        harness.expect_equal(f"killed at point {point}: the file, against the memory: {again.stdout} {again.stderr}", digest(redis), now)
        if now == wrecked:
            redis.ask("FLUSHALL")
            fill(redis)
            seeded = digest(redis)
        point += 3 if now == wrecked else 2
    scene.drop(redis.pid)
    harness.expect(undone > 1 and finished > 2, f"{undone} undone, {finished} finished")
    harness.expect_equal("what is left beside the data", sorted(path.name for path in scene.directory.glob(".relive*")), [])


def test(scene, tracker, words):
    if not shutil.which("redis-server") or not shutil.which("redis-cli"):
        raise harness.Skip("needs redis: a server to take back")
    data = scene.directory / "data"
    data.mkdir()
    redis = real_redis.Redis(scene, "--appendonly", "yes", "--dir", data)
    fill(redis)
    seeded = digest(redis)
    scene.snapshot(redis.pid, "seeded", tracker, "--files", data)
    for round_ in range(words.rounds):
        load(redis, round_)
        harness.expect(digest(redis) != seeded, "the load changed nothing")
        scene.rollback(redis.pid, "seeded")
        harness.expect_equal(f"round {round_}", digest(redis), seeded)
    scene.drop(redis.pid)
    start_anew(redis)
    harness.expect_equal("what the file says", digest(redis), seeded)
    if tracker != "compare":
        kill_in_the_middle(scene, redis, seeded)


if __name__ == "__main__":
    harness.main(test, ("--rounds", {"type": int, "default": ROUNDS}))
