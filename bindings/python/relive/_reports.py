"""What relive tells about what it did. Times are in microseconds. `raw` is the whole report, as the commands print it with
--json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, List, Type, TypeVar

T = TypeVar("T")


def read(kind: Type[T], values: Dict[str, Any], /, **more: Any) -> T:
    """A report of this kind; what its release does not know stays in `raw`."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{**{name: value for name, value in values.items() if name in known}, **more})


@dataclass(frozen=True)
class Refusal:
    """Something that cannot be put back, by name."""

    object: str
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class SnapshotInfo:
    name: str
    pid: int
    command: str
    created_ns: int
    tasks: int
    threads: int
    mappings: int
    pages: int
    descriptors: int
    tracker: str
    directories: List[str]
    files: int
    file_bytes: int
    raw: Dict[str, Any]


@dataclass(frozen=True)
class SnapshotReport:
    info: SnapshotInfo
    frozen_us: int
    total_us: int
    pages_copied: int
    raw: Dict[str, Any]


@dataclass(frozen=True)
class RollbackReport:
    fate: str  # "done", "untouched", "stopped", "killed"
    frozen_us: int  # the process stood still
    total_us: int  # the call
    tasks: int
    threads: int
    pages: int
    mappings: int
    descriptors: int
    files: int
    file_bytes: int
    tracker: str
    notes: List[str]  # what did not go back and is no reason to refuse
    refusals: List[Refusal]
    plan: List[str]  # of a dry run
    raw: Dict[str, Any]


@dataclass(frozen=True)
class Difference:
    family: str  # "thread", "mapping", "page", "descriptor", "signal", "timer", "process", "file"
    sign: str  # "added", "removed", "changed"
    object: str
    text: str
    pages: int = 0


@dataclass(frozen=True)
class DiffReport:
    differences: List[Difference]
    refusals: List[Refusal]  # none: it can go back
    frozen_us: int
    raw: Dict[str, Any]


def snapshot_info(raw: Dict[str, Any]) -> SnapshotInfo:
    return read(SnapshotInfo, raw, name=raw["snapshot"], raw=raw)


def snapshot_report(raw: Dict[str, Any]) -> SnapshotReport:
    return read(SnapshotReport, raw, info=snapshot_info(raw), raw=raw)


def rollback_report(raw: Dict[str, Any]) -> RollbackReport:
    return read(RollbackReport, raw, refusals=[read(Refusal, one) for one in raw["refusals"]], plan=raw.get("plan", []), raw=raw)


def diff_report(raw: Dict[str, Any]) -> DiffReport:
    return read(DiffReport, raw, refusals=[read(Refusal, one) for one in raw["refusals"]],
                differences=[read(Difference, one) for one in raw["differences"]], raw=raw)
