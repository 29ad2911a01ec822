#!/usr/bin/env python3
"""A Python program with eight threads at work, taken back at arbitrary moments: what it knows must be consistent each time."""

import pathlib
import random
import time

import harness

ROUNDS = 20
PROGRAM = pathlib.Path(__file__).with_name("python_program.py")


def test(scene, tracker, words):
    program = harness.LineProcess(scene, ["/usr/bin/python3", "-B", PROGRAM])
    random.seed(2)
    program.verify()
    scene.snapshot(program.pid, "start", tracker)
    program.verify()
    for how in range(ROUNDS):
        time.sleep(random.random() * 0.05)  # an arbitrary moment; nothing is judged by it
        program.wreck(how)
        scene.rollback(program.pid, "start")
        program.verify(0)
    program.become(1)
    scene.snapshot(program.pid, "later")
    for how in range(4):
        program.wreck(how)
        scene.rollback(program.pid, ["start", "later"][how % 2])
        program.verify(how % 2)
    scene.drop(program.pid)
    program.verify(1)


harness.main(test)
