#!/usr/bin/env python3
"""Real programs that start other programs, taken back at random moments when these have ended: a shell's pipeline, a
build with make, a pool of Python's multiprocessing. Each finishes again with the right result."""

import random
import shutil
import sys
import time

import harness

ROUNDS = 20

# Each reads a line, does its work, and when the next line comes it answers with what came out.
PIPELINE = """
set -o pipefail
echo ready
while read round; do
  sum=$(seq $round $((round + 600000)) | tac | sort -n -S 64M | tr 0-9 a-j | sha256sum)
  status=$?
  read report
  echo $status $sum
done
"""
BUILD = """
echo ready
while read round; do
  rm -f *.o
  make -s -j4 ROUND=$round all.o >&2
  status=$?
  read report
  echo $status $(sha256sum < all.o)
done
"""
MAKEFILE = """
CC = cc -pipe
PARTS = $(patsubst %.c,%.o,$(wildcard *.c))
all.o: $(PARTS)
	ld -r -o $@ $(sort $(PARTS))
%.o: %.c
	$(CC) -O1 -DROUND=$(ROUND) -c -o $@ $<
"""
POOL = """
import multiprocessing, sys

def work(n):
    total = 0
    for i in range(20000):
        total = (total * 31 + i * n) % 1000003
    return n, total

print("ready", flush=True)
for line in sys.stdin:
    with multiprocessing.get_context("fork").Pool(4, maxtasksperchild=3) as pool:
        total = sum(total * n for n, total in pool.imap_unordered(work, range(int(line), int(line) + 40)))
        pool.close()
        pool.join()
    sys.stdin.readline()
    print(0, total, flush=True)
"""


def pipeline(scene):
    return ["bash", "-c", PIPELINE]


def build(scene):
    if not shutil.which("make") or not shutil.which("cc"):
        raise harness.Skip("needs make: a build with a compiler to take back")
    (scene.directory / "Makefile").write_text(MAKEFILE)
    for part in range(8):
        functions = "".join(f"int f{part}_{n}(int x) {{ return x * {n} + ROUND; }}\n" for n in range(60))
        (scene.directory / f"part{part}.c").write_text("#include <stdio.h>\n#include <stdlib.h>\n" + functions)
    return ["bash", "-c", BUILD]


def pool(scene):
    return [sys.executable, "-c", POOL]


PROGRAMS = {"pipeline": pipeline, "build": build, "pool": pool}


def snapshot_under_way(scene, program, tracker):
    """A moment that no snapshot can be taken of (a child that still shares its parent's memory) passes."""
    deadline = time.monotonic() + harness.PATIENCE_S
    while True:
        status, _, err = scene.run(scene.build / "bin/relive", "snapshot", program.pid, "--name", "underway", "--replace",
                                   "--tracker", tracker)
        if status == 0:
            return
        passing = ("shares its memory", "vfork", "come and go", "ended while", "no process", "is gone")
        harness.expect(any(words in err for words in passing), f"no snapshot: {err}")
        harness.expect(time.monotonic() < deadline, f"no snapshot in {harness.PATIENCE_S} s: {err}")


def test(scene, tracker, words):
    random.seed(words.seed)
    program = harness.LineProcess(scene, PROGRAMS[words.program](scene))
    start = time.monotonic()
    program.say("7")
    want = program.ask("report")
    took = time.monotonic() - start
    harness.expect(want.startswith("0 "), f"it does not work by itself: {want}")
    made_again = 0
    for round_ in range(words.rounds):
        program.say("7")
        time.sleep(random.uniform(0, took))
        snapshot_under_way(scene, program, tracker)
        then = set(harness.descendants(program.pid))
        harness.expect_equal(f"round {round_}: result under a snapshot", program.ask("report"), want)
        for again in range(2):
            made_again += len(then - set(harness.descendants(program.pid)))
            scene.rollback(program.pid, "underway")
            if again == 0:
                time.sleep(random.uniform(0, took))
        harness.expect_equal(f"round {round_}: result after two rollbacks", program.ask("report"), want)
    harness.expect(made_again > words.rounds, f"only {made_again} tasks were made again")
    scene.note(f"{made_again} tasks were made again")
    scene.drop(program.pid)
    program.say("7")
    harness.expect_equal("result after the last drop", program.ask("report"), want)


if __name__ == "__main__":
    harness.main(test, ("program", {"choices": list(PROGRAMS)}), ("--rounds", {"type": int, "default": ROUNDS}),
                 ("--seed", {"type": int, "default": 4}))
