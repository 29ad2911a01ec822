#!/usr/bin/env python3
"""usage: victim.py NAME [--build DIR]    one victim (tests/victims/NAME.c): armed, wrecked and taken back, again and again."""

import harness

ROUNDS = 20


def test(scene, tracker, name):
    victim = harness.victim(scene, name)
    victim.verify(0)

    report = scene.snapshot(victim.pid, "a", tracker)
    harness.expect_equal("tracker", report["tracker"], tracker)
    victim.verify(0)  # armed, it works as ever

    victim.wreck(0)
    scene.rollback(victim.pid, "a")
    victim.verify(0)

    for how in range(ROUNDS):
        victim.wreck(how)
        scene.rollback(victim.pid, "a")
        victim.verify(0)

    scene.rollback(victim.pid, "a")  # with nothing wrecked, and nothing done
    scene.rollback(victim.pid, "a")
    victim.verify(0)

    victim.become(1)
    scene.snapshot(victim.pid, "b")
    victim.verify(1)
    for step, (snapshot, state) in enumerate([("a", 0), ("b", 1), ("b", 1), ("a", 0), ("a", 0), ("b", 1)]):
        victim.wreck(step)
        scene.rollback(victim.pid, snapshot)
        victim.verify(state)
    scene.rollback(victim.pid, "a")
    victim.verify(0)
    scene.rollback(victim.pid, "b")
    victim.verify(1)

    scene.drop(victim.pid)
    victim.verify(1)
    victim.wreck(0)


if __name__ == "__main__":
    harness.main(lambda scene, tracker, words: test(scene, tracker, words.name), ("name", {}))
