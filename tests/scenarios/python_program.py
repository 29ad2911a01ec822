"""A Python program with eight threads that work through a queue without pause; it judges itself (tests/victims/victim.h).

Each worker takes a number, moves its own chain of hashes on by it, and counts under a lock. Whenever it is looked at, the
chains must be what their counts say, and the counts must add up.
"""

import hashlib
import os
import queue
import sys
import threading

WORKERS = 8


class Worker(threading.Thread):
    def __init__(self, shop, number):
        super().__init__(daemon=True)
        self.shop, self.number = shop, number
        self.count, self.chain = 0, b""
        self.local = threading.local()
        self.leave = False

    def run(self):
        self.local.number = self.number
        while not self.leave:
            ticket = self.shop.tickets.get()
            with self.shop.lock:
                self.chain = hashlib.sha256(self.chain + b"%d" % (self.count % 1000)).digest()
                self.count += 1
                self.shop.total += 1
                if self.local.number != self.number:
                    self.shop.complaints.append(f"worker {self.number} has another's thread-local")
            self.shop.tickets.put(ticket)


class Shop:
    def __init__(self):
        self.tickets = queue.Queue()
        self.lock = threading.Lock()
        self.total = 0
        self.state = 0
        self.complaints = []
        self.cargo = {n: bytes([n % 251]) * (n % 400) for n in range(20000)}
        for ticket in range(4):
            self.tickets.put(ticket)
        self.workers = [Worker(self, n) for n in range(WORKERS)]
        for worker in self.workers:
            worker.start()

    def verify(self, state):
        wrong = list(self.complaints)
        with self.lock:
            if str(self.state) != state:
                wrong.append(f"state is {self.state}")
            if len(self.workers) != WORKERS or not all(w.is_alive() for w in self.workers):
                wrong.append("a worker is gone")
            if threading.active_count() != WORKERS + 1:
                wrong.append(f"{threading.active_count()} threads")
            if sum(w.count for w in self.workers) != self.total:
                wrong.append("the counts do not add up")
            for worker in self.workers:
                if worker.chain != chain(worker.count):
                    wrong.append(f"the chain of worker {worker.number} is not what its count says")
            if len(self.cargo) != 20000 or any(v != bytes([n % 251]) * (n % 400) for n, v in self.cargo.items()):
                wrong.append("the cargo differs")
            before = [w.count for w in self.workers]
        # Everybody goes on working.
        for worker, count in zip(self.workers, before):
            while worker.count == count and worker.is_alive():
                threading.Event().wait(0.001)
        return "FAIL: " + "; ".join(wrong) if wrong else "PASS"

    def wreck(self, how):
        self.state = 999
        self.cargo.clear()
        self.cargo.update((n, os.urandom(100)) for n in range(30000))
        if how % 2 == 1:
            for worker in self.workers[:4]:
                worker.leave = True
            for worker in self.workers[:4]:
                worker.join()
            self.workers += [Worker(self, n) for n in range(100, 105)]
            for worker in self.workers[-5:]:
                worker.start()
        with self.lock:
            self.workers[5].count += 1000
        return "wrecked"

    def become(self, state):
        self.state = int(state)
        return f"became {state}"


KNOWN = [b""]


def chain(count):
    """The chain after `count` steps; steps already made are remembered."""
    while len(KNOWN) <= count:
        KNOWN.append(hashlib.sha256(KNOWN[-1] + b"%d" % ((len(KNOWN) - 1) % 1000)).digest())
    return KNOWN[count]


def main():
    shop = Shop()
    os.write(1, b"ready\n")
    rest = b""
    while more := os.read(0, 4096):
        rest += more
        while b"\n" in rest:
            line, rest = rest.split(b"\n", 1)
            word, _, argument = line.decode().partition(" ")
            if word == "end":
                return
            answer = {"verify": shop.verify, "wreck": lambda how: shop.wreck(int(how)), "become": shop.become}[word](argument)
            os.write(1, answer.encode() + b"\n")


sys.setswitchinterval(0.0005)
main()
