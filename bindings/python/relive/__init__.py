"""Puts running processes back to an earlier state, in place: same pid, same connections, within milliseconds.

    import relive

    with relive.spawn(["redis-server", "--port", "7000"], ready="127.0.0.1:7000") as server:
        seed(7000)
        server.snapshot("seeded")
        ...
        server.rollback()           # to the snapshot taken last, or to the one that is named

    with relive.adopt(4242) as process:   # a process that somebody else has started
        process.snapshot()

What goes back and what does not: docs/test-reset.md of relive. It needs librelive.so (RELIVE_LIBRARY names it, where the
loader does not find it) and the program `relive` of the same release (RELIVE_PROGRAM, beside the library, PATH). Any function
may be called from any thread.
"""

from ._library import (Busy, Error, NotFound, PermissionRefused, Refused, Stopped, TaskDied, TimedOut, Unsupported, Usage,
                       version)
from ._process import Process, Spawned, adopt, free_port, spawn
from ._reports import DiffReport, Difference, Refusal, RollbackReport, SnapshotInfo, SnapshotReport

__all__ = [
    "Busy", "DiffReport", "Difference", "Error", "NotFound", "PermissionRefused", "Process", "Refusal", "Refused",
    "RollbackReport", "SnapshotInfo", "SnapshotReport", "Spawned", "Stopped", "TaskDied", "TimedOut", "Unsupported", "Usage",
    "adopt", "free_port", "spawn", "version",
]
