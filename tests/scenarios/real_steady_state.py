#!/usr/bin/env python3
"""A thousand rollbacks leave the same number of mappings and descriptors, and no growth of memory, in task and keeper."""

import harness

ROUNDS = 1000
SETTLED = 50  # rounds after which nothing may grow any more
TOLERANCE_PAGES = 64  # of resident memory: caches of the allocator; a leak of a page in every round is fifteen times that


def census(tasks):
    return {name: (len(task.maps()), len(task.descriptors()), task.rss_pages()) for name, task in tasks.items()}


def test(scene, tracker, words):
    victim = harness.victim(scene, words.victim)
    scene.snapshot(victim.pid, "start", tracker)
    (keeper,) = scene.keepers()
    tasks = {"task": victim.task, "keeper": harness.Task(keeper)}
    for how in range(ROUNDS):
        victim.wreck(how)
        scene.rollback(victim.pid, "start")
        if how == SETTLED:
            before = census(tasks)
    victim.verify()
    scene.rollback(victim.pid, "start")
    after = census(tasks)
    print(f"{tracker}: mappings, descriptors, resident pages: {before} -> {after}")
    for name in tasks:
        harness.expect_equal(f"mappings of the {name}", after[name][0], before[name][0])
        harness.expect_equal(f"descriptors of the {name}", after[name][1], before[name][1])
        growth = after[name][2] - before[name][2]
        harness.expect(growth <= TOLERANCE_PAGES, f"the {name} grew by {growth} pages in {ROUNDS - SETTLED} rollbacks")
    scene.drop(victim.pid)
    victim.verify()


harness.main(test, ("--victim", {"default": "plain"}))
