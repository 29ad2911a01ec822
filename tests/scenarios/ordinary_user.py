#!/usr/bin/env python3
"""Without privileges: one's own tasks go back as they do for root; what takes a privilege is refused by name."""

import json

import harness
import victim as victim_scenario

WHOLE = ["plain", "heap", "stack", "anonymous_mappings", "kernel_writes", "regular_files", "pipes", "named_pipes",
           "epoll_sets", "timer_files", "signal_files", "inotify", "listening_sockets", "terminals", "message_queues",
           "signal_actions", "signal_masks", "threads_born", "registers", "calls_in_flight"]

GONE = 4  # this wreck of the victim leaves nobody attached


def test(scene, tracker, words):
    for name in WHOLE:
        victim_scenario.test(scene, tracker, name)
        harness.end_process(scene.processes[-1])
        print(f"{tracker}: {name}", flush=True)

    # So does the id of a segment that is gone (kernel.shm_next_id).
    victim = harness.victim(scene, "system_v_memory")
    scene.snapshot(victim.pid, "before", tracker)
    victim.wreck(GONE)
    status, out, err = scene.run(scene.build / "bin/relive", "rollback", "--to", "before", victim.pid, "--json")
    harness.expect_equal("exit status", status, 1)
    harness.expect_equal("fate", json.loads(out)["fate"], "untouched")
    harness.expect("its id cannot be given again" in out, f"the refusal does not name the segment: {out} {err}")
    harness.end_process(victim.process)

    # A thread id that is gone takes CAP_CHECKPOINT_RESTORE.
    victim = harness.victim(scene, "threads_ended")
    scene.snapshot(victim.pid, "before", tracker)
    victim.wreck(0)
    status, out, err = scene.run(scene.build / "bin/relive", "rollback", "--to", "before", victim.pid, "--json")
    harness.expect_equal("exit status", status, 1)
    answer = json.loads(out)
    harness.expect_equal("fate", answer["fate"], "untouched")
    harness.expect("thread" in out, f"the refusal does not name the threads: {out} {err}")
    harness.expect("is gone" in victim.ask("verify"), "the threads came back")


harness.main(test, ordinary_user=True)
