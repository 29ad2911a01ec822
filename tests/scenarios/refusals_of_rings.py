#!/usr/bin/env python3
"""Rings shared with the kernel and the like: refused by name, before the first change."""

import json

import harness

AIO, NOTIFICATION, _, IO_URING = range(4)
# Made before the snapshot, made since; and words that the refusal must have.
AT_SNAPSHOT = [(AIO, "/[aio]"), (NOTIFICATION, "mq_notify"), (IO_URING, "io_uring")]
SINCE = [(AIO, "AIO")]


def refused(scene, *words):
    status, out, err = scene.run(scene.build / "bin/relive", *words, "--json")
    harness.expect_equal(f"exit status of {words[0]}", status, 1)
    harness.expect_equal("fate", json.loads(out or "{}").get("fate", "untouched"), "untouched")
    return out + err


def test(scene, tracker, words):
    for kind, name in AT_SNAPSHOT:
        victim = harness.victim(scene, "kernel_rings")
        answer = victim.ask(f"become {kind}")
        if "no io_uring" not in answer:
            text = refused(scene, "snapshot", victim.pid, "--name", "before", "--tracker", tracker)
            harness.expect(name in text, f"the refusal does not name {name}: {text}")
            harness.expect(not [line for line in victim.task.maps() if "relive" in line], "relive is left in maps")
            victim.verify(0)
        harness.end_process(victim.process)
    for kind, name in SINCE:
        victim = harness.victim(scene, "kernel_rings")
        scene.snapshot(victim.pid, "before", tracker)
        victim.wreck(kind)
        text = refused(scene, "rollback", "--to", "before", victim.pid)
        harness.expect(name in text, f"the refusal does not name {name}: {text}")
        answer = victim.ask("verify")
        harness.expect("data differ" in answer, f"the task is not what it was: {answer}")
        harness.end_process(victim.process)


harness.main(test)
