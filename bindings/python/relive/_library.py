"""librelive.so through ctypes: its functions, its errors as exceptions. Of its structures only the options are laid out here:
reports and errors are read as JSON."""

from __future__ import annotations

import ctypes
import json
import os
from typing import Any, Dict, Optional

NAME = "librelive.so.0"


class Error(RuntimeError):
    """relive could not do what it was asked. The text says what, on what, why, and what to do next.

    code: "refused", "busy", ... (relive_code of lib/relive.h). what, hint: parts of the text. report: of a rollback that was
    refused or broken off, else None.
    """

    def __init__(self, code: str, message: str, what: str = "", hint: str = "", report: Any = None):
        super().__init__(message)
        self.code = code
        self.what = what
        self.hint = hint
        self.report = report


class Usage(Error):
    """The arguments are wrong."""


class NotFound(Error):
    """No such process, snapshot, keeper, program, library."""


class Refused(Error):
    """Something cannot be put back, or remembered; it is named; nothing was changed."""


class PermissionRefused(Error):
    """The kernel does not let this user do it."""


class Busy(Error):
    """Somebody else is at work on the process."""


class Unsupported(Error):
    """This kernel, machine or release lacks what is needed."""


class TaskDied(Error):
    """The process ended meanwhile."""


class TimedOut(Error):
    """No answer in time; the keeper goes on with what it was asked."""


class Stopped(Error):
    """A rollback was broken off by the kernel: the process is left stopped, or was killed."""


KINDS = {"usage": Usage, "not_found": NotFound, "refused": Refused, "permission": PermissionRefused, "busy": Busy,
         "unsupported": Unsupported, "task_died": TaskDied, "timeout": TimedOut, "stopped": Stopped, "killed": Stopped}


class AdoptOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("timeout_ms", ctypes.c_int32), ("caller", ctypes.c_char_p)]


class SnapshotOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("name", ctypes.c_char_p), ("replace", ctypes.c_int), ("tracker", ctypes.c_char_p),
                ("directories", ctypes.POINTER(ctypes.c_char_p)), ("directory_count", ctypes.c_size_t),
                ("store", ctypes.c_char_p)]


class RollbackOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("dry_run", ctypes.c_int), ("kill_on_failure", ctypes.c_int)]


REPORTS = ("snapshot", "rollback", "diff", "list")


class Library:
    """The functions, loaded once."""

    def __init__(self) -> None:
        name = os.environ.get("RELIVE_LIBRARY") or NAME
        try:
            self.functions = ctypes.CDLL(name)
        except OSError as error:
            raise NotFound("not_found", f"{name} cannot be loaded: {error} (install librelive, or name it in RELIVE_LIBRARY)") from error
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        out = ctypes.POINTER(pointer)
        for function, result, arguments in (
                ("version", text, ()),
                ("code_name", text, (ctypes.c_int,)),
                ("error_free", None, (pointer,)),
                ("error_json", text, (pointer,)),
                ("adopt", ctypes.c_int, (ctypes.c_int, ctypes.POINTER(AdoptOptions), out, out)),
                ("release", None, (pointer,)),
                ("snapshot", ctypes.c_int, (pointer, ctypes.POINTER(SnapshotOptions), out, out)),
                ("rollback", ctypes.c_int, (pointer, text, ctypes.POINTER(RollbackOptions), out, out)),
                ("diff", ctypes.c_int, (pointer, text, out, out)),
                ("list", ctypes.c_int, (pointer, out, out)),
                ("drop", ctypes.c_int, (pointer, text, out)),
                *((f"{report}_report_json", text, (pointer,)) for report in REPORTS),
                *((f"{report}_report_free", None, (pointer,)) for report in REPORTS)):
            one = self[function]
            one.restype = result
            one.argtypes = arguments

    def __getitem__(self, function: str) -> Any:
        return getattr(self.functions, "relive_" + function)

    def check(self, code: int, error: ctypes.c_void_p, report: Any = None) -> None:
        """Raises what a function has returned, and frees it."""
        if code == 0:
            return
        name = self["code_name"](code).decode()
        told: Dict[str, Any] = {}
        if error:
            try:
                told = loads(self["error_json"](error))["error"]
            finally:
                self["error_free"](error)
        raise KINDS.get(name, Error)(name, told.get("message", name), told.get("what", ""), told.get("hint", ""), report)

    def take(self, kind: str, report: ctypes.c_void_p) -> Optional[Dict[str, Any]]:
        """A report as JSON, and frees it."""
        if not report:
            return None
        try:
            return loads(self[f"{kind}_report_json"](report))
        finally:
            self[f"{kind}_report_free"](report)


def loads(text: bytes) -> Dict[str, Any]:
    return json.loads(text.decode("utf-8", "replace"))


_loaded: Optional[Library] = None


def library() -> Library:
    global _loaded
    if _loaded is None:
        _loaded = Library()
    return _loaded


def version() -> str:
    """The release of librelive."""
    return library()["version"]().decode()
