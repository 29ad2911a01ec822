"""The plugin for pytest, run by pytest: on the small server, alone and with workers."""

import os
import pathlib
import re
import signal
import socket

import pytest

import relive

SERVER = pathlib.Path(__file__).resolve().parent / "server.py"

CONFTEST = f"""
import socket, sys
import pytest, relive

def connect(path):
    one = socket.socket(socket.AF_UNIX)
    one.connect(path)
    return one.makefile("rw")

@pytest.fixture(scope="session")
def relive_stack(tmp_path_factory, relive_worker):
    path = str(tmp_path_factory.mktemp(relive_worker) / "socket")
    with relive.spawn([sys.executable, "-B", {str(SERVER)!r}, path], ready=path) as server:
        server.client = connect(path)  # before the snapshot: goes on working
        server.path = path
        ask(server.client, "set color blue")
        yield server

def ask(client, line):
    client.write(line + "\\n")
    client.flush()
    return client.readline().rstrip()

@pytest.fixture
def color(relive_stack):
    def color(value=None):
        return ask(relive_stack.client, f"set color {{value}}" if value else "get color")
    return color
"""

TESTS = """
import pytest

@pytest.mark.relive
@pytest.mark.parametrize("number", range(6))
def test_begins_as_seeded(color, number, relive_worker):
    assert color() == "blue"
    assert color(f"{relive_worker}-{number}") == "ok"

def test_unmarked_is_left_alone(color):
    color("green")
    assert color() == "green"
"""


@pytest.fixture
def outside(pytester, monkeypatch):
    """A pytest of its own."""
    pytester.makeconftest(CONFTEST)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p relive.pytest_plugin -p no:cacheprovider")
    return pytester


def keepers():
    return list(pathlib.Path(os.environ["RELIVE_RUNTIME_DIR"]).glob("*.sock"))


def test_each_test_begins_as_seeded(outside):
    outside.makepyfile(TESTS)
    result = outside.runpytest_subprocess()
    result.assert_outcomes(passed=7)
    result.stdout.re_match_lines([r"relive: 5 rollbacks, [\d.]+ ms median, [\d.]+ ms at most"])
    assert not keepers()


def test_all_of_them(outside):
    outside.makeini("[pytest]\nrelive_all = true\n")
    outside.makepyfile(TESTS)
    result = outside.runpytest_subprocess()
    result.assert_outcomes(passed=7)
    result.stdout.re_match_lines([r"relive: 6 rollbacks, .*"])


def test_each_worker_has_its_own(outside):
    outside.makepyfile(TESTS)
    result = outside.runpytest_subprocess("-n", "2")
    result.assert_outcomes(passed=7)
    result.stdout.re_match_lines([r"relive: [45] rollbacks, .*"])
    assert not keepers()


def test_several_stacks(outside):
    outside.makepyfile("""
        import pytest, relive

        @pytest.fixture(scope="session")
        def other():
            with relive.spawn(["sleep", "1000"]) as process:
                yield process

        @pytest.mark.relive("relive_stack", "other")
        @pytest.mark.parametrize("number", range(2))
        def test_both(relive_stack, other, number):
            assert [len(one.snapshots()) for one in (relive_stack, other)] == [1, 1]
        """)
    result = outside.runpytest_subprocess()
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines([r"relive: 2 rollbacks, .*"])


def test_a_failed_one_ends_what_was_started(outside):
    outside.makepyfile("""
        import pytest

        @pytest.mark.relive
        def test_fails(relive_stack):
            print("pid", relive_stack.pid)
            assert False
        """)
    result = outside.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    pid = int(re.search(r"pid (\d+)", result.stdout.str())[1])
    assert not pathlib.Path(f"/proc/{pid}").exists() and not keepers()


def test_a_stack_that_does_not_start_is_an_error_with_its_words(outside):
    outside.makeconftest("""
        import pytest, relive

        @pytest.fixture(scope="session")
        def relive_stack():
            with relive.spawn(["sh", "-c", "echo no luck; exit 1"], ready="/no/such/socket") as process:
                yield process
        """)
    outside.makepyfile(TESTS.replace("color, number, relive_worker", "number"))
    result = outside.runpytest_subprocess("-k", "seeded")
    result.assert_outcomes(errors=6)
    assert "sh has ended with status 1" in result.stdout.str() and "no luck" in result.stdout.str()


def test_failed_states_are_kept(outside):
    outside.makepyfile("""
        import pytest

        @pytest.mark.relive
        @pytest.mark.parametrize("number", range(3))
        def test_it(color, number):
            assert color() == "blue"
            color(f"broken-{number}")
            assert number == 1
        """)
    result = outside.runpytest_subprocess("--relive-keep-failed")
    result.assert_outcomes(passed=1, failed=2)
    told = re.findall(r"is process (\d+); rollback --to (\S+) \d+", result.stdout.str())
    assert len(told) == 2, result.stdout.str()
    pid = int(told[0][0])
    log = pathlib.Path(re.search(r"its output is in (\S+)", result.stdout.str())[1])
    try:
        assert len({pid for pid, _ in told}) == 1
        process = relive.adopt(pid)
        assert {name for _, name in told} < {one.name for one in process.snapshots()}
        (path,) = re.findall(r"socket: (\S+)", log.read_text())
        for number, (_, name) in zip((0, 2), told):
            process.rollback(name)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"get color\n")
                assert client.recv(100) == f"broken-{number}\n".encode()
        process.drop()
    finally:
        os.kill(pid, signal.SIGKILL)
        log.unlink()


def test_a_refused_rollback_is_the_tests_error(outside):
    outside.makepyfile("""
        import pytest
        from conftest import ask, connect

        @pytest.mark.relive
        def test_first(relive_stack):
            assert ask(relive_stack.client, "exec") == "ok"
            while True:
                try:
                    if ask(connect(relive_stack.path), "get color") == "":
                        break
                except OSError:
                    pass

        @pytest.mark.relive
        def test_second():
            pass
        """)
    result = outside.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    assert "execve" in result.stdout.str()
    assert not keepers()
