#!/usr/bin/env python3
"""A parent and its workers go back together: those that live, those born since, and those that have ended.

With --image from disk, with no snapshot kept."""

import pathlib
import sys

import harness

ROUNDS = 20
# What happens to the tree after the snapshot.
WRECKS = {
    "all live on": ["step", "step"],
    "one was born": ["step", "born", "step"],
    "one was born, and ended": ["born", "end 3"],
    "one has ended": ["step", "end 1", "step"],
    "one in a session of its own has ended": ["end 1"],
    "one in a group of its own has ended": ["end 2"],
    "all have ended": ["end 0", "end 0", "end 0"],
    "one ended and one was born": ["end 0", "born", "step"],
    "one was killed, and nobody waited for it": ["step", "leave 1", "step"],
    "all were killed, and nobody waited": ["leave 0", "leave 0", "leave 0", "born"],
    "all ended and others were born": ["end 0", "end 0", "end 0", "born", "born", "step"],
}


def beside_snapshots(scene, family, before, tracker, image):
    """An image is applied to tasks that ended, while a keeper has snapshots of them; and these are gone back to."""
    scene.snapshot(family.pid, "kept", tracker)
    for round_ in range(4):
        family.ask("step")
        family.ask(f"end {round_ % 2}")
        report = scene.relive("apply", image, family.pid) if round_ % 2 else scene.rollback(family.pid, "kept")
        harness.expect_equal(f"beside snapshots, round {round_}: fate", report["fate"], "done")
        harness.expect_equal(f"beside snapshots, round {round_}", family.ask("status"), before)
    scene.drop(family.pid)


def test(scene, tracker, words):
    family = harness.LineProcess(scene, [sys.executable, "-B", pathlib.Path(__file__).with_name("family.py")])
    family.ask("step")
    before = family.ask("status")
    scene.snapshot(family.pid, "before", tracker)
    harness.expect_equal("with a snapshot armed", family.ask("status"), before)
    image = scene.directory / "image"
    if words.image:
        scene.snapshot(family.pid, "before", tracker, "--replace", "--out", image)
        harness.expect_equal("findings", scene.relive("check", image)["finding_list"], [])
        scene.drop(family.pid)
    names = list(WRECKS)
    for round_ in range(words.rounds):
        name = names[round_ % len(names)]
        for line in WRECKS[name]:
            family.ask(line)
        report = scene.relive("apply", image, family.pid) if words.image else scene.rollback(family.pid, "before")
        harness.expect_equal(f"round {round_}, {name}: fate", report["fate"], "done")
        harness.expect_equal(f"round {round_}, {name}", family.ask("status"), before)
        harness.expect_equal(f"round {round_}: tasks", report["tasks"], 4)
        harness.expect_equal(f"round {round_}: nothing to wait for", family.ask("children"), before)
    if words.image:
        beside_snapshots(scene, family, before, tracker, image)
    family.ask("step")
    if not words.image:
        scene.drop(family.pid)
    harness.expect(family.ask("step") != before, "it does not go on")


if __name__ == "__main__":
    harness.main(test, ("--image", {"action": "store_true"}), ("--rounds", {"type": int, "default": ROUNDS}))
