#!/usr/bin/env python3
"""A task that stands under SIGSTOP stays stopped through a snapshot and a rollback, and goes on at SIGCONT."""

import os
import signal

import harness


def stop(victim):
    os.kill(victim.pid, signal.SIGSTOP)
    harness.wait_until("the task stands", lambda: victim.task.state() == "T")


def go_on(victim):
    os.kill(victim.pid, signal.SIGCONT)
    harness.wait_until("the task goes on", lambda: victim.task.state() != "T")


def stays_stopped(victim):
    # A command that let the task run would be followed by an answer: a line is waiting for it.
    harness.wait_until("nobody traces the task", lambda: victim.task.tracer() == 0)
    harness.expect_equal("state", victim.task.state(), "T")


def test(scene, tracker, words):
    victim = harness.victim(scene, words.victim)
    stop(victim)
    scene.snapshot(victim.pid, "standing", tracker)
    stays_stopped(victim)
    go_on(victim)
    victim.verify()
    victim.wreck()

    # The task ran at the call and ran at no time in the snapshot: stopping is the outside's doing and not undone.
    stop(victim)
    scene.rollback(victim.pid, "standing")
    stays_stopped(victim)
    go_on(victim)
    victim.verify()

    victim.wreck(1)
    stop(victim)
    victim.say("verify 0")  # to be read when it goes on
    scene.rollback(victim.pid, "standing")
    stays_stopped(victim)
    go_on(victim)
    harness.expect_equal("verify", victim.hear(), "PASS")
    scene.drop(victim.pid)
    victim.verify()


harness.main(test, ("--victim", {"default": "plain"}))
