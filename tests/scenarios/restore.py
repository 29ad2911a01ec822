#!/usr/bin/env python3
"""usage: restore.py VICTIM... [--build DIR]

Victims, each below a parent (relay.py), are written to a directory and killed: `apply DIR` makes them anew, both with the pids that they had,
and they find everything as it was. Redis, too."""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import sys

import harness
import images
import real_redis

PR_SET_CHILD_SUBREAPER = 36
# What cannot be made anew, and how that is said: then nothing lives, as before.
REFUSED = {
    "file_locks": "write lease",
    "file_shapes": "a deleted file that is no regular one",
    "message_queues": "cannot be had here",
    "process_handles": "its process had ended before the snapshot",
    "regular_files": "cannot be had here",
    "system_v_memory": "the image does not have what was in it",
    "terminals": "has hung up for good",
}
# What finds that it was made anew: memory that is open has another inode.
MADE_OTHERWISE = {"memfds": "is another file"}


class Relayed:
    def __init__(self, scene, name):
        self.socket = scene.directory / "s"
        self.socket.unlink(missing_ok=True)
        here = pathlib.Path(__file__)
        with open(scene.directory / "log", "w") as log, open(os.devnull) as nothing:
            self.process = scene.start([sys.executable, "-B", here.with_name("relay.py"), self.socket, scene.build / "bin/victims" / name], stdin=nothing, stdout=log, stderr=log)
        self.pid = self.process.pid
        harness.wait_until("the relay answers", self.answers)
        self.pids = harness.descendants(self.pid)

    def answers(self):
        harness.expect(self.process.poll() is None, "the relay ended")
        try:
            self.first = self.ask("first")
        except OSError:
            return False
        return True

    def ask(self, line):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(harness.PATIENCE_S)
            connection.connect(str(self.socket))
            connection.sendall(line.encode() + b"\n")
            with connection.makefile() as answer:
                return answer.readline().rstrip("\n")


def end_all(pids):
    """Of a tree that may be nobody's but ours by adoption: killed, waited for, and gone."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for pid in pids:
        def gone(pid=pid):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            return not pathlib.Path(f"/proc/{pid}").exists()
        harness.wait_until(f"{pid} is gone", gone)


def restore(scene, name, directory, pids):
    report = scene.relive("apply", directory)
    harness.expect_equal(f"{name}: fate", report["fate"], "done")
    harness.expect_equal(f"{name}: the root", report["pid"], pids[0])
    harness.expect_equal(f"{name}: who lives", harness.descendants(pids[0]), pids)
    for pid in pids:
        task = harness.Task(pid)
        left = [line for line in task.maps() if "relive" in line or "userfaultfd" in line]
        left += [link for link in task.descriptors().values() if "relive" in link or "userfaultfd" in link]
        harness.expect(not left and task.tracer() == 0, f"{name}: left in {pid}: {left}")


def refused(scene, name, directory):
    status, out, err = scene.run(scene.build / "bin/relive", "apply", directory)
    harness.expect_equal(f"{name}: exit status", status, 1)
    harness.expect(REFUSED[name] in out + err, f"{name}: {out} {err}")
    harness.expect("nothing was made" in out, f"{name}: {out}")


def a_victim(scene, name, tracker):
    relayed = Relayed(scene, name)
    if relayed.first != "ready":
        print(f"{name}: {relayed.first}", flush=True)
        end_all(relayed.pids)
        return
    harness.expect_equal(f"{name}: before", relayed.ask("verify 0"), "PASS")
    directory = scene.directory / f"image-{name}"
    scene.snapshot(relayed.pid, "a", tracker, "--out", directory)
    scene.drop(relayed.pid)
    pids = relayed.pids
    try:
        for round_ in range(2):
            harness.expect_equal(f"{name}: wreck", relayed.ask(f"wreck {round_}"), "wrecked")
            end_all(harness.descendants(pids[0]))
            if name in REFUSED:
                refused(scene, name, directory)
                return
            dry = scene.relive("apply", directory, "--dry-run")
            harness.expect_equal(f"{name}: refusals of a dry run", dry["refusals"], [])
            harness.expect(not pathlib.Path(f"/proc/{pids[0]}").exists(), f"{name}: a dry run has made something")
            restore(scene, name, directory, pids)
            answer = relayed.ask("verify 0")
            if name in MADE_OTHERWISE:
                harness.expect(MADE_OTHERWISE[name] in answer, f"{name}: made anew: {answer}")
                return
            harness.expect_equal(f"{name}: made anew", answer, "PASS")
        harness.expect_equal(f"{name}: wreck", relayed.ask("wreck 0"), "wrecked")
        scene.relive("apply", directory, pids[0])
        harness.expect_equal(f"{name}: applied to what was made anew", relayed.ask("verify 0"), "PASS")
        status, _, err = scene.run(scene.build / "bin/relive", "apply", directory)
        harness.expect_equal(f"{name}: while it lives: exit status", status, 1)
        harness.expect_equal(f"{name}: while it lives", relayed.ask("verify 0"), "PASS")
    finally:
        end_all(harness.descendants(pids[0]))
        shutil.rmtree(directory)


def a_redis(scene, tracker):
    redis = real_redis.Redis(scene)
    real_redis.fill(redis)
    before = redis.content()
    directory = scene.directory / "image-redis"
    scene.snapshot(redis.pid, "a", tracker, "--out", directory)
    scene.drop(redis.pid)
    try:
        for _ in range(3):
            redis.ask("FLUSHALL")
            end_all([redis.pid])
            restore(scene, "redis", directory, [redis.pid])
            harness.expect_equal("redis", redis.content(), before)
    finally:
        end_all([redis.pid])


def outcome(relayed):
    """ "none" lives, or "all", and as it was; nothing where it is not decided."""
    def lives(pid):
        try:
            return harness.Task(pid).state() not in "ZX"
        except OSError:
            return False
    if not any(lives(pid) for pid in relayed.pids):
        return "none"
    try:
        return "all" if all(lives(pid) for pid in relayed.pids) and relayed.ask("verify 0") == "PASS" else None
    except OSError:
        return None


def faults(scene, tracker):
    """Relive fails, and is killed, at every point on the way: nothing lives then, or all of it."""
    relayed = Relayed(scene, "pipes")
    directory = scene.directory / "image-faults"
    scene.snapshot(relayed.pid, "a", tracker, "--out", directory)
    scene.drop(relayed.pid)
    pids = relayed.pids
    end_all(pids)
    points = scene.relive("apply", directory)["faults_passed"]
    harness.expect_equal("made anew", relayed.ask("verify 0"), "PASS")
    end_all(pids)
    died = lived = 0
    for action in ("fail", "kill"):
        for point in sorted({*range(0, points, 1 + points // 15), *range(points - 6, points)}):
            scene.environment["RELIVE_FAULT"] = f"{action}:{point}"
            status, out, err = scene.run(scene.build / "bin/relive", "apply", directory)
            del scene.environment["RELIVE_FAULT"]
            harness.expect((action == "fail") == (status >= 0), f"{action}:{point}: {status}: {out} {err}")
            alive = harness.wait_until(f"{action}:{point}: all of {pids} live, or none: {out} {err}", lambda: outcome(relayed), 20) == "all"
            died, lived = died + (not alive), lived + bool(alive)
            end_all(pids)
    harness.expect(died > 10 and lived > 0, f"{died} times nothing lived, {lived} times all")


def test(scene, tracker, words):
    if os.geteuid() != 0:
        raise harness.Skip("needs root: to choose a pid (CAP_CHECKPOINT_RESTORE)")
    if getattr(words, "done", False):
        return  # no tracker is at work on the way
    words.done = True
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    faults(scene, tracker)
    if shutil.which("redis-server"):
        a_redis(scene, tracker)
    for name in words.names:
        if name not in images.REFUSED:
            a_victim(scene, name, tracker)


if __name__ == "__main__":
    harness.main(test, ("names", {"nargs": "*"}))
