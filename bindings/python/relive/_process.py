"""Processes that go back: adopted or spawned."""

from __future__ import annotations

import ctypes
import os
import pathlib
import select
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Callable, List, Mapping, Optional, Sequence, Type, TypeVar, Union

from . import _reports
from ._library import AdoptOptions, Error, RollbackOptions, SnapshotOptions, library

Path = Union[str, "os.PathLike[str]"]
Ready = Union[None, str, Callable[[], Any]]
Self = TypeVar("Self", bound="Process")

PAUSE_S = 0.01


def adopt(pid: int, *, files: Sequence[Path] = (), store: Optional[Path] = None, tracker: Optional[str] = None,
          timeout: Optional[float] = None) -> "Process":
    """A process, with its descendants, that somebody else has started. Nothing is done to it yet.

    files: directories whose contents go back with every snapshot taken through it; store: where copies of these lie. tracker:
    "uffd", "soft-dirty" or "compare" instead of the best. timeout: seconds for each answer.
    """
    return Process(pid, files=files, store=store, tracker=tracker, timeout=timeout)


def spawn(command: Sequence[Path], *, ready: Ready = None, name: Optional[str] = None, files: Sequence[Path] = (),
          store: Optional[Path] = None, tracker: Optional[str] = None, timeout: Optional[float] = None,
          ready_timeout: float = 60, cwd: Optional[Path] = None, env: Optional[Mapping[str, str]] = None,
          log: Optional[Path] = None, stop_signal: int = signal.SIGTERM, stop_timeout: float = 10) -> "Spawned":
    """Starts a command, and waits until it is ready. Leaving the `with` block, or close(), ends it and all that it has started.

    ready: "HOST:PORT" or the path of a unix socket that must take a connection, or a callable that must return something true (an
    OSError means: not yet). name: of it in messages. log: a file for its output (default: one of its own, that goes with it; see
    `log`). It gets no terminal and no input, and a session of its own. The other words are those of adopt() and of
    subprocess.Popen.
    """
    return Spawned(command, ready=ready, name=name, files=files, store=store, tracker=tracker, timeout=timeout,
                   ready_timeout=ready_timeout, cwd=cwd, env=env, log=log, stop_signal=stop_signal, stop_timeout=stop_timeout)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now. Somebody else may take it before you do."""
    with socket.socket() as one:
        one.bind((host, 0))
        return one.getsockname()[1]


class Process:
    """A process and its descendants. Leaving the `with` block drops the snapshots that were taken through it.

    after_rollback, if it is set, is called with the report behind every rollback that was done: to tell the process what is new,
    a seed for its random numbers above all (they repeat).
    """

    after_rollback: Optional[Callable[[_reports.RollbackReport], object]] = None

    def __init__(self, pid: int, *, files: Sequence[Path] = (), store: Optional[Path] = None,
                 tracker: Optional[str] = None, timeout: Optional[float] = None) -> None:
        self._handle = ctypes.c_void_p()
        self.pid = pid
        self._files = [os.fsencode(path) for path in files]
        self._store = store
        self._tracker = tracker
        self._taken: List[str] = []
        self._kept = False
        options = AdoptOptions(ctypes.sizeof(AdoptOptions), 0 if timeout is None else max(1, int(timeout * 1000)), b"python")
        error = ctypes.c_void_p()
        code = library()["adopt"](pid, ctypes.byref(options), ctypes.byref(self._handle), ctypes.byref(error))
        library().check(code, error)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        if self._handle:
            library()["release"](self._handle)
            self._handle = ctypes.c_void_p()

    def __repr__(self) -> str:
        return f"<relive.{type(self).__name__} {self.pid}>"

    def snapshot(self, name: Optional[str] = None, *, replace: bool = False) -> _reports.SnapshotReport:
        """Remembers its state. name: default the first free snap-N. replace: if there is one of that name, forget it."""
        directories = (ctypes.c_char_p * len(self._files))(*self._files)
        options = SnapshotOptions(
            size=ctypes.sizeof(SnapshotOptions), name=name.encode() if name is not None else None, replace=replace,
            tracker=self._tracker.encode() if self._tracker is not None else None, directories=directories,
            directory_count=len(self._files), store=os.fsencode(self._store) if self._store is not None else None)
        report, error = ctypes.c_void_p(), ctypes.c_void_p()
        code = library()["snapshot"](self._handle, ctypes.byref(options), ctypes.byref(report), ctypes.byref(error))
        raw = library().take("snapshot", report)
        library().check(code, error)
        assert raw is not None
        told = _reports.snapshot_report(raw)
        self._taken = [one for one in self._taken if one != told.info.name] + [told.info.name]
        return told

    def rollback(self, name: Optional[str] = None, *, dry_run: bool = False,
                 kill_on_failure: bool = False) -> _reports.RollbackReport:
        """Puts it back to a snapshot: the one taken last through this object, or the one named, or (with a '/' in it) the image in a
        directory. Raises Refused if something cannot be put back (nothing was changed then), Stopped if the kernel broke it off."""
        options = RollbackOptions(ctypes.sizeof(RollbackOptions), dry_run, kill_on_failure)
        report, error = ctypes.c_void_p(), ctypes.c_void_p()
        code = library()["rollback"](self._handle, self._name(name), ctypes.byref(options), ctypes.byref(report),
                                     ctypes.byref(error))
        raw = library().take("rollback", report)
        told = _reports.rollback_report(raw) if raw is not None else None
        library().check(code, error, told)
        assert told is not None
        if self.after_rollback is not None and not dry_run:
            self.after_rollback(told)
        return told

    def diff(self, name: Optional[str] = None) -> _reports.DiffReport:
        """What has changed since a snapshot."""
        report, error = ctypes.c_void_p(), ctypes.c_void_p()
        code = library()["diff"](self._handle, self._name(name), ctypes.byref(report), ctypes.byref(error))
        raw = library().take("diff", report)
        library().check(code, error)
        assert raw is not None
        return _reports.diff_report(raw)

    def snapshots(self) -> List[_reports.SnapshotInfo]:
        """All that the process has, whoever took them."""
        report, error = ctypes.c_void_p(), ctypes.c_void_p()
        code = library()["list"](self._handle, ctypes.byref(report), ctypes.byref(error))
        raw = library().take("list", report)
        library().check(code, error)
        assert raw is not None
        return [_reports.snapshot_info(one) for one in raw["snapshots"]]

    def drop(self, name: Optional[str] = None) -> None:
        """Forgets a snapshot, or all of them. With the last one nothing of relive's stays in the process."""
        error = ctypes.c_void_p()
        code = library()["drop"](self._handle, name.encode() if name is not None else None, ctypes.byref(error))
        library().check(code, error)
        self._taken = [one for one in self._taken if name is not None and one != name]

    def keep(self) -> None:
        """close() will leave it as it is, with its snapshots: to be looked at."""
        self._kept = True

    def close(self) -> None:
        """Drops the snapshots that were taken through this object. The process runs on."""
        if self._kept:
            return
        for name in list(self._taken):
            try:
                self.drop(name)
            except Error:  # it has ended, and they with it
                self._taken.remove(name)

    def _name(self, name: Optional[str]) -> bytes:
        if name is None:
            if not self._taken:
                raise ValueError("which snapshot? none was taken through this object")
            name = self._taken[-1]
        return os.fsencode(name)


class Spawned(Process):
    """A process that we have started. `popen` is its subprocess.Popen, `log` the file with its output."""

    popen: "subprocess.Popen[bytes]"
    log: pathlib.Path

    def __init__(self, command: Sequence[Path], *, ready: Ready, name: Optional[str], files: Sequence[Path],
                 store: Optional[Path], tracker: Optional[str], timeout: Optional[float], ready_timeout: float,
                 cwd: Optional[Path], env: Optional[Mapping[str, str]], log: Optional[Path], stop_signal: int,
                 stop_timeout: float) -> None:
        self._handle = ctypes.c_void_p()
        library()  # if it is missing, that is said before anything is started
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self.name = name if name is not None else os.path.basename(os.fspath(command[0]))
        self._own_log = log is None
        if log is None:
            descriptor, log = tempfile.mkstemp(prefix="relive-", suffix=".log")
            os.close(descriptor)
        self.log = pathlib.Path(log)
        # Its position goes back with the process: what we write or read must not share it.
        try:
            with open(self.log, "ab") as out:
                self.popen = subprocess.Popen([os.fspath(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                              stderr=subprocess.STDOUT, cwd=cwd, env=env, start_new_session=True)
        except OSError:
            if self._own_log:
                self.log.unlink()
            raise
        self.pid = self.popen.pid
        try:
            self._wait_until_ready(ready, time.monotonic() + ready_timeout)
            super().__init__(self.pid, files=files, store=store, tracker=tracker, timeout=timeout)
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Ends it and all that it has started. With that its snapshots are gone."""
        if not self._kept:
            self._end()

    def _wait_until_ready(self, ready: Ready, end: float) -> None:
        while not is_ready(ready):
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.name} has ended with status {self.popen.returncode} and was not ready{self._last_words()}")
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} is not ready: {ready!r}{self._last_words()}")
            time.sleep(PAUSE_S)

    def _last_words(self) -> str:
        text = self.log.read_text(errors="replace")[-2000:].strip()
        return f"; its last words:\n{text}" if text else "; it said nothing"

    def _end(self) -> None:
        try:
            if self._handle and self.popen.poll() is None:
                self.drop()  # so that its keeper has ended when we come back
        except Error:
            pass  # it goes with the process
        tree = descendants(self.pid) if self.popen.poll() is None else []
        for sign in (self._stop_signal, signal.SIGKILL):
            if sign != signal.SIGKILL and is_stopped(self.pid):
                continue  # it would not hear it, and what stands half way back must not run on
            self.popen.send_signal(sign)  # nothing, if it has ended
            try:
                self.popen.wait(self._stop_timeout)
                break
            except subprocess.TimeoutExpired:
                continue
        for one in tree:  # those who outlive it
            try:
                signal.pidfd_send_signal(one, signal.SIGKILL)
                select.select([one], [], [], self._stop_timeout)
            except OSError:
                pass  # it has ended
            os.close(one)
        if self._own_log:
            self.log.unlink(missing_ok=True)


def is_ready(ready: Ready) -> bool:
    if ready is None:
        return True
    try:
        if callable(ready):
            return bool(ready())
        if "/" in ready:
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(ready)
            return True
        host, _, port = ready.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        return True
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    except OSError:
        return False


def descendants(pid: int) -> List[int]:
    """All below it, each as a pidfd: a later process with the same pid is not meant."""
    found: List[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            try:
                found.append(os.pidfd_open(child))
            except OSError:
                continue
            found += descendants(child)
    return found
