"""pytest-relive: each test begins with the servers as they were seeded.

conftest.py starts and seeds what the tests need, once (once per worker with xdist: each has its own):

    @pytest.fixture(scope="session")
    def relive_stack():
        with relive.spawn(["redis-server", "--port", str(PORT)], ready=f"127.0.0.1:{PORT}") as server:
            seed(PORT)
            yield server

A test that is marked begins at that state. The first of them takes the snapshot; the others roll back:

    @pytest.mark.relive
    def test_it(): ...

`relive_all = true` in the ini file marks all tests. @pytest.mark.relive("redis", "api") names other fixtures than relive_stack; each
gives a relive.Process. --relive-keep-failed keeps the state in which each test failed.
"""

from __future__ import annotations

import re
import statistics
from typing import Any, Dict, Iterator, List

import pytest

from . import Error, Process, Spawned

STACK = "relive_stack"


class Stack:
    """A process with its snapshot, for the session."""

    def __init__(self, fixture: str, process: Process, worker: str) -> None:
        self.fixture = fixture
        self.process = process
        self.snapshot = f"pytest-{worker}-{fixture}"[:64]
        self.failed: List[str] = []


class Plugin:
    """What one session (one worker) has done."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.worker = getattr(config, "workerinput", {}).get("workerid", "main")
        self.stacks: Dict[str, Stack] = {}
        self.rollbacks_us: List[int] = []
        self.kept: List[str] = []

    def begin(self, fixture: str, process: Process) -> Stack:
        """The state to begin with: for its first test a snapshot, for the others the way back to it."""
        stack = self.stacks.get(fixture)
        if stack is not None and stack.process is process:
            self.rollbacks_us.append(process.rollback(stack.snapshot).total_us)
            return stack
        if not isinstance(process, Process):
            raise pytest.UsageError(f"the fixture {fixture} gives no relive.Process but {process!r}")
        stack = Stack(fixture, process, self.worker)
        process.snapshot(stack.snapshot, replace=True)
        self.stacks[fixture] = stack
        return stack

    def keep(self, stack: Stack, test: str) -> None:
        """The state after a failed test, as one more snapshot."""
        name = ("failed-" + re.sub(r"[^\w.-]+", "-", test.split("/")[-1]))[-64:].lstrip("-")
        try:
            stack.process.snapshot(name, replace=True)
        except Error as error:
            self.kept.append(f"{test}: its state could not be kept: {error}")
            return
        stack.process.keep()
        stack.failed.append(name)
        pid = stack.process.pid
        log = f"; its output is in {stack.process.log}" if isinstance(stack.process, Spawned) else ""
        self.kept.append(f"{test}: {stack.fixture} is process {pid}; rollback --to {name} {pid}{log}")

    def told(self) -> Dict[str, Any]:
        return {"rollbacks_us": self.rollbacks_us, "kept": self.kept}

    def hear(self, told: Dict[str, Any]) -> None:
        self.rollbacks_us += told["rollbacks_us"]
        self.kept += told["kept"]

    # Hooks.

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome = yield
        report = outcome.get_result()  # type: ignore[attr-defined]
        if report.when == "call" and report.failed and self.config.getoption("relive_keep_failed"):
            for fixture in fixtures_of(item):
                if fixture in self.stacks:
                    self.keep(self.stacks[fixture], item.nodeid)

    def pytest_sessionfinish(self) -> None:
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["relive"] = self.told()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        told = getattr(node, "workeroutput", {}).get("relive")
        if told:
            self.hear(told)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.kept:
            terminalreporter.section("relive: kept for you to look at")
            for line in self.kept:
                terminalreporter.line(line)
            terminalreporter.line("relive list shows them; kill PID ends them")
        if self.rollbacks_us:
            count = len(self.rollbacks_us)
            terminalreporter.line(f"relive: {count} rollback{'s' if count != 1 else ''}, "
                                  f"{statistics.median(self.rollbacks_us) / 1000:.1f} ms median, "
                                  f"{max(self.rollbacks_us) / 1000:.1f} ms at most")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("relive")
    group.addoption("--relive-keep-failed", action="store_true", dest="relive_keep_failed",
                    help="keep the state after each failed test as a snapshot, and leave the processes running")
    parser.addini("relive_all", "every test begins at the seeded state, marked or not", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"relive(fixture, ...): begins with these processes (default: {STACK}) as they were seeded")
    config.pluginmanager.register(Plugin(config), "relive-session")


def fixtures_of(item: pytest.Item) -> List[str]:
    """The fixtures of the processes that this test wants back; none: it is not ours."""
    marker = item.get_closest_marker("relive")
    if marker is not None:
        return [str(one) for one in marker.args] or [STACK]
    return [STACK] if item.config.getini("relive_all") else []


@pytest.fixture(scope="session")
def relive_worker(request: pytest.FixtureRequest) -> str:
    """The name of this xdist worker, "gw0", or "main": for names and directories that must differ."""
    return request.config.pluginmanager.get_plugin("relive-session").worker  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def relive_begin(request: pytest.FixtureRequest) -> None:
    """Puts the processes of the test back, before the test's own fixtures."""
    plugin = request.config.pluginmanager.get_plugin("relive-session")
    for fixture in fixtures_of(request.node):
        plugin.begin(fixture, request.getfixturevalue(fixture))
