#!/usr/bin/env python3
"""A victim of many tasks: a parent with workers behind pipes, memory that they all share, and ears for SIGCHLD.

It answers one line with one line. `status` tells everything that a rollback has to put back, seen from inside.
"""

import json
import mmap
import os
import signal
import struct
import sys

ANSWER = struct.Struct("6i")

shared = mmap.mmap(-1, 8192)
ends_seen = []
signal.signal(signal.SIGCHLD, lambda number, frame: ends_seen.append(number))


class Worker:
    def __init__(self, number, session=False, group=False):
        self.number = number
        down, up = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            if session:
                os.setsid()
            if group:
                os.setpgid(0, 0)
            os.close(down[1])
            os.close(up[0])
            self.work(down[0], up[1])
        os.close(down[0])
        os.close(up[1])
        self.to, self.back = down[1], up[0]
        self.ask(b"?")  # it has its session and group

    def work(self, orders, answers):
        count = 1000 * self.number
        while order := os.read(orders, 1):
            if order == b"+":
                count += 1
                shared[self.number] = count % 256
            if order == b"x":
                os._exit(7)
            os.write(answers, ANSWER.pack(count, os.getppid(), os.getpgid(0) == os.getpgid(os.getppid()), os.getsid(0) == os.getsid(os.getppid()),
                                          shared[self.number], len(os.listdir("/proc/self/fd"))))
        os._exit(0)

    def ask(self, order):
        os.write(self.to, order)
        return ANSWER.unpack(os.read(self.back, ANSWER.size))

    def forget(self):
        os.close(self.to)
        os.close(self.back)
        workers.remove(self)


workers = [Worker(1), Worker(2, session=True), Worker(3, group=True)]


def status():
    return json.dumps({"workers": [(worker.pid, *worker.ask(b"?")) for worker in workers], "ends seen": len(ends_seen), "shared": bytes(shared[:16]).hex()})


def step():
    for worker in workers:
        worker.ask(b"+")


def born():
    workers.append(Worker(len(workers) + 1))


def end(which):
    """The child ends and is waited for."""
    worker = workers[int(which)]
    os.write(worker.to, b"x")
    os.waitpid(worker.pid, 0)
    worker.forget()


def leave(which):
    """The child is killed and nobody waits for it."""
    worker = workers[int(which)]
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    worker.forget()


def children():
    """None of them has ended without being waited for."""
    assert os.waitpid(-1, os.WNOHANG) == (0, 0)


COMMANDS = {"step": step, "born": born, "end": end, "leave": leave, "children": children, "status": lambda: None}

print("ready", flush=True)
for line in sys.stdin:
    command, *words = line.split()
    COMMANDS[command](*words)
    print(status(), flush=True)
