#!/usr/bin/env python3
"""A task at rest reads what another one writes, memory and file: whenever the keeper dies, it never sees the two at odds.

The writer changes a word that both share, and a file. The reader sleeps meanwhile, so a rollback does not look at it; but it must not run on before
the file is back.
"""

import json
import os
import subprocess
import sys

import harness

PROGRAM = """
import mmap, os, sys
asked, answers, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
word = mmap.mmap(-1, 4096)
def write(text):
    global own
    own = text
    word[:3] = text
    with open(path, "r+b") as file:
        file.write(text)
def both():
    with open(path, "rb") as file:
        return word[:3] + b" " + file.read()
write(b"old")
if os.fork() == 0:
    while os.read(asked, 1):
        os.write(answers, both() + b"\\n")
    os._exit(0)
os.write(1, b"ready\\n")
while (line := os.read(0, 100)):
    if line != b"see\\n":
        write(line[:3])
    os.write(1, own + b" " + both() + b"\\n")
"""


class Pair:
    def __init__(self, scene):
        self.directory = scene.directory / "data"
        self.directory.mkdir()
        (self.directory / "file").write_bytes(b"...")
        ask, answers = os.pipe(), os.pipe()
        self.asks, self.answers = ask[1], answers[0]
        self.writer = harness.LineProcess(scene, [sys.executable, "-c", PROGRAM, str(ask[0]), str(answers[1]), self.directory / "file"], pass_fds=(ask[0], answers[1]))
        os.close(ask[0])
        os.close(answers[1])
        self.pid = self.writer.pid

    def become(self, text):
        harness.expect_equal("the writer", self.writer.ask(text), f"{text} {text} {text}")

    def ask_reader(self):
        os.write(self.asks, b"?")

    def hear_reader(self):
        return os.read(self.answers, 100).decode().strip()


def test(scene, tracker, words):
    pair = Pair(scene)
    command = [str(word) for word in (scene.build / "bin/relive", "rollback", "--to", "a", pair.pid, "--json")]
    fates = {"old": 0, "new": 0}

    def rollback(fault):
        return subprocess.run(command, env={**scene.environment, **fault}, capture_output=True, text=True, timeout=harness.PATIENCE_S)

    scene.snapshot(pair.pid, "a", tracker, "--files", pair.directory)
    for round_ in range(5):
        pair.become("new")
        report = scene.rollback(pair.pid, "a")
        harness.expect(report["files"] == 1, "the file was not put back")
        pair.ask_reader() if round_ % 2 else None
        harness.expect_equal("the writer", pair.writer.ask("see"), "old old old")
        harness.expect_equal("the reader", pair.hear_reader() if round_ % 2 else "old old", "old old")
    pair.become("new")
    points = scene.rollback(pair.pid, "a")["faults_passed"]
    for point in range(points + 10):
        pair.become("new")
        done = rollback({"RELIVE_FAULT": f"kill:{point}"})
        if done.returncode == 0:
            break
        pair.ask_reader()
        again = rollback({})  # finishes what the first one could not
        seen = pair.hear_reader()
        mine = pair.writer.ask("see")
        harness.expect(mine in ("old old old", "new new new"), f"killed at point {point}: {mine}: {again.stdout} {again.stderr}")
        harness.expect_equal(f"killed at point {point}: the reader", seen, mine[4:])
        fates[mine[:3]] += 1
        pair.become("old")
        scene.snapshot(pair.pid, "a", tracker, "--files", pair.directory)
    harness.expect_equal("the last fault point", done.returncode, 0)
    harness.expect(min(fates.values()) > 2, f"{fates}")
    print(json.dumps(fates))
    scene.drop(pair.pid)
    harness.expect_equal("what is left beside the data", sorted(path.name for path in scene.directory.glob(".relive*")), [])


if __name__ == "__main__":
    harness.main(test)
