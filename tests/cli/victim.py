"""Tasks to name in commands. usage: victim.py KIND. Says "PID=N" (and "TID=N", "KEEPS=N") in one line, then waits.

sleep   does nothing                        zombie  has ended, its parent does not care
traced  is under a debugger                 thread  has a second thread, TID
exec    becomes sleep(1) at SIGUSR1         stop    stands under SIGSTOP
changing  calls itself "changed" at SIGUSR1
various   has descriptors of many kinds, shared memory, a second thread
"""

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time

PTRACE_SEIZE = 0x4206
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
libc = ctypes.CDLL(None, use_errno=True)


def say(text):
    print(text, flush=True)


def child(body):
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        body()
        os._exit(0)
    return pid


def wait_forever():
    while True:
        signal.pause()


def main(kind):
    if kind == "sleep":
        say(f"PID={os.getpid()}")
        os.execv("/bin/sleep", ["sleep", "1000"])
    elif kind == "stop":
        say(f"PID={os.getpid()}")
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "zombie":
        pid = child(lambda: None)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        say(f"PID={pid}")
    elif kind == "traced":
        pid = child(wait_forever)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        if libc.ptrace(PTRACE_SEIZE, pid, 0, 0) != 0:
            sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
        say(f"PID={pid}")
    elif kind == "thread":
        started = threading.Event()

        def body():
            started.tid = threading.get_native_id()
            started.set()
            time.sleep(1000)

        threading.Thread(target=body, daemon=True).start()
        started.wait()
        say(f"PID={os.getpid()} TID={started.tid}")
    elif kind == "exec":
        signal.signal(signal.SIGUSR1, lambda *_: os.execv("/bin/sleep", ["sleep", "1000"]))
        say(f"PID={os.getpid()}")
    elif kind == "changing":
        signal.signal(signal.SIGUSR1, lambda *_: libc.prctl(PR_SET_NAME, b"changed"))
        say(f"PID={os.getpid()}")
    elif kind == "various":
        kept = various()
        say(f"PID={os.getpid()} KEEPS={len(kept)}")
    wait_forever()


def various():
    reader, writer = os.pipe()
    os.write(writer, b"unread")
    counter = os.eventfd(7)
    pair = socket.socketpair()
    pair[0].send(b"message")
    datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams[0].send(b"datagram")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(5)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0relive-{os.getpid()}")
    abstract.listen(3)
    epoll = select.epoll()
    epoll.register(reader, select.EPOLLIN)
    epoll.register(counter, select.EPOLLIN)
    shared = mmap.mmap(-1, 1 << 20)
    shared[0:6] = b"shared"
    memory = os.memfd_create("various")
    os.write(memory, b"in a memfd" * 1000)
    nameless = tempfile.TemporaryFile()
    nameless.write(b"of a file without a name")
    nameless.flush()
    locked = tempfile.TemporaryFile()
    fcntl.flock(locked, fcntl.LOCK_EX)
    signal.setitimer(signal.ITIMER_REAL, 1000, 5)
    signal.signal(signal.SIGALRM, lambda *_: None)
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    return [reader, writer, counter, pair, datagrams, listening, abstract, epoll, shared, memory, nameless, locked]


main(sys.argv[1])
