#!/usr/bin/env python3
"""What cannot be taken back, and what is not handled, is refused by name before the first change; the task goes on."""

import json
import os

import harness

# What is done after the snapshot, and a word that its refusal must have.
IRREVERSIBLE = [("no_new_privs", ["no_new_privs"]), ("a seccomp filter", ["seccomp"]), ("a lowered hard limit", ["limit"]),
                ("the leader's end", ["leader", "thread"]), ("a dropped capability", ["capabilit"]), ("execve", ["exec"])]
UNHANDLED = ["userfaultfd", "the other half of a rename", "namespace", "half-written UDP", "6 bytes are unread in it and nobody has it open", "netlink socket at port", "huge-page file"]


def refused(scene, *words):
    """A command that must be refused: the text of its object."""
    status, out, err = scene.run(scene.build / "bin/relive", *words, "--json")
    harness.expect_equal(f"exit status of {words[0]}", status, 1)
    answer = json.loads(out or "{}")
    if "fate" in answer:
        harness.expect_equal("fate", answer["fate"], "untouched")
    return out + err


def irreversible(scene, tracker, number, what, names):
    victim = harness.victim(scene, "irreversible")
    scene.snapshot(victim.pid, "before", tracker)
    if what == "execve":
        victim.say(f"wreck {number}")
        harness.expect_equal("first word of the new program", victim.hear(), "ready")
    else:
        victim.wreck(number)
    before = (victim.task.threads(), victim.task.descriptors())
    text = refused(scene, "rollback", "--to", "before", victim.pid)
    harness.expect(any(name in text for name in names), f"the refusal does not name {what}: {text}")
    harness.wait_until("nobody traces the task", lambda: victim.task.tracer() == 0)
    harness.expect_equal("threads and descriptors", (victim.task.threads(), victim.task.descriptors()), before)
    answer = victim.ask("verify")
    harness.expect(answer == "PASS" if what == "execve" else "data differ" in answer, f"after {what} the task is not what it was: {answer}")
    harness.end_process(victim.process)


def without_leader(scene, tracker):
    victim = harness.victim(scene, "leader_gone")
    text = refused(scene, "snapshot", victim.pid, "--name", "before", "--tracker", tracker)
    harness.expect("leader" in text, f"the refusal does not name the leader: {text}")
    victim.verify(0)
    harness.end_process(victim.process)


def unhandled(scene, tracker, number, name):
    victim = harness.victim(scene, "irreversible")
    victim.become(number)
    text = refused(scene, "snapshot", victim.pid, "--name", "before", "--tracker", tracker, "--take-events")
    harness.expect(name in text, f"the refusal does not name {name}: {text}")
    left = [line for line in victim.task.maps() if "relive" in line]
    harness.expect(not left, f"left in maps: {left}")
    victim.verify(0)
    harness.end_process(victim.process)


def unread_events(scene, tracker):
    """They are taken out of their queue for a moment only where that is asked for."""
    victim = harness.victim(scene, "inotify_unread")
    text = refused(scene, "snapshot", victim.pid, "--name", "before", "--tracker", tracker)
    harness.expect("unread events" in text and "--take-events" in text, f"the refusal does not name them: {text}")
    victim.verify(0)
    harness.end_process(victim.process)


def test(scene, tracker, words):
    for number, (what, names) in enumerate(IRREVERSIBLE):
        if what == "a lowered hard limit" and may_raise_limits():
            continue
        if what == "a dropped capability" and os.geteuid() != 0:
            continue
        irreversible(scene, tracker, number, what, names)
    for number, name in enumerate(UNHANDLED):
        unhandled(scene, tracker, number, name)
    without_leader(scene, tracker)
    unread_events(scene, tracker)


def may_raise_limits():
    return int(harness.Task(os.getpid()).status("CapEff"), 16) >> 24 & 1


harness.main(test)
