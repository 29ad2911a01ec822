"""Tasks to name in commands. usage: victim.py KIND. Says "PID=N" (and "TID=N", "KEEPS=N") in one line, then waits.

sleep   does nothing                        zombie  has ended, its parent does not care
traced  is under a debugger                 thread  has a second thread, TID
exec    becomes sleep(1) at SIGUSR1         stop    stands under SIGSTOP
changing  calls itself "changed" at SIGUSR1
"""

import ctypes
import os
import signal
import sys
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
    wait_forever()


main(sys.argv[1])
