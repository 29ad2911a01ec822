#!/usr/bin/env python3
"""usage: images.py [--crit|--apply] VICTIM... [--build DIR]

A snapshot of each victim is written to a directory: what show tells of the directory is what it tells of the snapshot, check finds
nothing wrong, and the victim works as ever, and is taken back. With --crit: each of CRIU's files in it, decoded and encoded by crit, is
what it was, to the byte. With --apply: the victim, wrecked, becomes what the directory says.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import harness

# crit 3.17 (Debian 12) does not know the kind.
NEWER_THAN_CRIT = {"process_handles": "pidfds"}
# What no image is written of yet, and how that is said; nothing is left behind, and the snapshot can be gone back to.
REFUSED = {
    "named_pipes": "cannot be part of an image",
    "tun_devices": "cannot be part of an image",
    "descriptors_in_flight": "cannot be part of an image",
}
# What an image does not have: files with a name. Those that lose it and are closed cannot be had again.
GONE = {"regular_files": "deleted_later"}
SHOWN = ("process", "thread_list", "mapping_list", "descriptor_list", "threads", "mappings", "descriptors")


def compare(scene, name, directory):
    snapshot = scene.relive("show", "a", scene.pid)
    image = scene.relive("show", directory)
    harness.expect_equal(f"{name}: tasks", len(image["task_list"]), 1)
    harness.expect_equal(f"{name}: tasks of the snapshot", len(snapshot["task_list"]), 1)
    for key in SHOWN:
        got, want = image["task_list"][0][key], {**snapshot, **snapshot["task_list"][0]}[key]
        if isinstance(want, list):
            different = [(g, w) for g, w in zip(got, want) if g != w] or (len(got), len(want))
            harness.expect(got == want, f"{name}: {key}: {different}")
        harness.expect_equal(f"{name}: {key}", got, want)
    # Memory that is mapped twice is in a snapshot once, where it may be written.
    harness.expect(image["pages"] >= snapshot["pages"], f"{name}: {image['pages']} pages of {snapshot['pages']}")
    checked = scene.relive("check", directory)
    harness.expect_equal(f"{name}: findings", checked["finding_list"], [])


def round_trip(scene, name, directory):
    files = [path for path in sorted(directory.glob("*.img")) if not path.name.startswith(("pages-", "relive-"))]
    harness.expect(len(files) > 8, f"{name}: files: {files}")
    for path in files:
        decoded = subprocess.run(["crit", "decode", "-i", path], capture_output=True)
        harness.expect(decoded.returncode == 0, f"{name}: crit decode {path.name}: {decoded.stderr.decode()[-500:]}")
        encoded = subprocess.run(["crit", "encode"], input=decoded.stdout, capture_output=True)
        harness.expect(encoded.stdout == path.read_bytes(), f"{name}: {path.name} is another one after crit decode and encode")


def again_by_crit(directory, pid):
    """Every file of CRIU's, decoded and encoded; of threads one."""
    for path in sorted(directory.glob("*.img")):
        if path.name.startswith(("pages-", "relive-")) or path.name.startswith("core-") and path.name != f"core-{pid}.img":
            continue
        decoded = subprocess.run(["crit", "decode", "-i", path], capture_output=True, check=True)
        path.write_bytes(subprocess.run(["crit", "encode"], input=decoded.stdout, capture_output=True, check=True).stdout)


def apply(scene, name, directory, pid):
    report = scene.relive("apply", directory, pid)
    harness.expect_equal(f"{name}: fate", report["fate"], "done")
    return report


def cannot_be_had(scene, name, victim, directory, tracker):
    """Refused by name, and nothing is touched; the snapshot holds it."""
    scene.snapshot(victim.pid, "a", tracker, "--out", directory)
    victim.wreck(0)
    before = victim.task.maps(), victim.task.descriptors()
    status, out, _ = scene.run(scene.build / "bin/relive", "apply", directory, victim.pid, "--json")
    harness.expect_equal(f"{name}: exit status", status, 1)
    report = json.loads(out)
    harness.expect_equal(f"{name}: fate", report["fate"], "untouched")
    harness.expect(any(GONE[name] in refusal["object"] for refusal in report["refusals"]), f"{name}: {report['refusals']}")
    harness.expect_equal(f"{name}: mappings and descriptors", (victim.task.maps(), victim.task.descriptors()), before)
    scene.rollback(victim.pid, "a")
    victim.verify(0)
    scene.drop(victim.pid)


def applies(scene, name, victim, directory, tracker):
    """From disk: with the snapshot still kept, and without; another time; what crit has written again."""
    scene.snapshot(victim.pid, "a", tracker, "--out", directory)
    kept_before = False
    for kept in (True, True, False, False):
        if kept_before and not kept:
            scene.drop(victim.pid)
        kept_before = kept
        victim.wreck(0)
        dry = scene.relive("apply", directory, victim.pid, "--dry-run")
        harness.expect_equal(f"{name}: refusals of a dry run", dry["refusals"], [])
        apply(scene, name, directory, victim.pid)
        victim.verify(0)
        if kept:
            victim.wreck(0)
            scene.rollback(victim.pid, "a")
            victim.verify(0)
    harness.expect(scene.wait_for_keepers(10), f"{name}: a keeper stays with nothing to keep")
    if shutil.which("crit") and name not in NEWER_THAN_CRIT:
        again_by_crit(directory, victim.pid)
        victim.wreck(0)
        apply(scene, name, directory, victim.pid)
        victim.verify(0)
    harness.expect(scene.wait_for_keepers(10), f"{name}: a keeper stays with nothing to keep")
    left = [line for line in victim.task.maps() if "relive" in line or "userfaultfd" in line]
    harness.expect(not left, f"{name}: left in maps: {left}")


def refuses(scene, name, victim, directory, tracker):
    command = ("snapshot", victim.pid, "--name", "a", "--tracker", tracker, "--out", directory)
    status, _, err = scene.run(scene.build / "bin/relive", *command)
    harness.expect_equal(f"{name}: exit status", status, 1)
    harness.expect(REFUSED[name] in err, f"{name}: {err}")
    harness.expect(not list(scene.directory.glob(f"{directory.name}*")), f"{name}: something was written")
    victim.wreck(0)
    scene.rollback(victim.pid, "a")
    victim.verify(0)
    scene.drop(victim.pid)
    harness.end_process(victim.process)


def a_tree(scene, tracker):
    """What tasks of a tree share is told once: open files, which nearly all of them are, and memory (tree.py applies images)."""
    parent = scene.start(["sh", "-c", "sleep 1000 & wait"])
    harness.wait_until("it has a child", lambda: len(harness.descendants(parent.pid)) == 2)
    directory = scene.directory / "image-parent"
    scene.snapshot(parent.pid, "a", tracker, "--out", directory)
    harness.expect_equal("parent: findings", scene.relive("check", directory)["finding_list"], [])
    shown = scene.relive("show", directory)["task_list"]
    harness.expect_equal("parent: tasks", len(shown), 2)
    for got, want in zip(shown, scene.relive("show", "a", parent.pid)["task_list"]):
        for key in SHOWN:
            if key in want:
                harness.expect_equal(f"parent: {key}", got[key], want[key])
    scene.drop(parent.pid)
    apply(scene, "parent", directory, parent.pid)
    if shutil.which("crit"):
        again_by_crit(directory, parent.pid)
        apply(scene, "parent", directory, parent.pid)
    harness.end_process(parent)


def test(scene, tracker, words):
    if words.crit and shutil.which("crit") is None:
        raise harness.Skip("needs crit: to decode and encode what relive has written")
    if words.crit and getattr(words, "done", False):
        return  # what is written does not depend on the tracker
    words.done = True
    if not words.crit and not words.apply:
        a_tree(scene, tracker)
    for name in words.names:
        if words.crit and name in NEWER_THAN_CRIT:
            continue
        try:
            victim = harness.victim(scene, name)
        except harness.Skip as skip:
            print(f"{name}: {skip}", flush=True)
            continue
        victim.verify(0)
        scene.pid = victim.pid
        directory = scene.directory / f"image-{name}"
        if name in REFUSED:
            if words.apply:
                harness.end_process(victim.process)
                continue
            refuses(scene, name, victim, directory, tracker)
            continue
        if words.apply:
            (cannot_be_had if name in GONE else applies)(scene, name, victim, directory, tracker)
            harness.end_process(victim.process)
            shutil.rmtree(directory)
            continue
        scene.snapshot(victim.pid, "a", tracker, "--out", directory)
        if words.crit:
            round_trip(scene, name, directory)
        else:
            compare(scene, name, directory)
            victim.wreck(0)
            scene.rollback(victim.pid, "a")
        victim.verify(0)
        scene.drop(victim.pid)
        harness.end_process(victim.process)
        shutil.rmtree(directory)


if __name__ == "__main__":
    harness.main(test, ("--crit", {"action": "store_true"}), ("--apply", {"action": "store_true"}), ("names", {"nargs": "+"}))
