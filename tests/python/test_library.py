"""The package relive: what it starts, puts back, refuses and leaves behind."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import relive

HERE = pathlib.Path(__file__).resolve().parent
SERVER = [sys.executable, "-B", str(HERE / "server.py")]


@pytest.fixture
def server(tmp_path):
    with relive.spawn([*SERVER, str(tmp_path / "socket")], ready=str(tmp_path / "socket")) as one:
        one.path = str(tmp_path / "socket")
        yield one


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw")

    def ask(self, line):
        self.file.write(line + "\n")
        self.file.flush()
        return self.file.readline().rstrip("\n")


def wait_until(condition):
    end = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def test_goes_back_and_open_connections_go_on(server):
    client = Client(server.path)
    assert client.ask("set color blue") == "ok"
    report = server.snapshot("seeded")
    assert report.info.name == "seeded" and report.info.pid == server.pid and report.frozen_us > 0
    for round in range(5):
        assert client.ask(f"set color {round}") == "ok"
        late = Client(server.path)
        assert late.ask("get color") == str(round)
        assert any(one.family == "page" for one in server.diff().differences)
        assert server.rollback(dry_run=True).plan
        told = server.rollback()
        assert told.fate == "done" and told.pages > 0 and told.frozen_us <= told.total_us and told.raw["fate"] == "done"
        assert client.ask("get color") == "blue"
        assert late.file.readline() == ""  # opened since: closed


def test_files_go_back(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "kept").write_text("before")
    with relive.spawn([*SERVER, str(tmp_path / "socket")], ready=str(tmp_path / "socket"), files=[data]) as server:
        report = server.snapshot()
        assert report.info.directories == [str(data)] and report.info.files == 1
        (data / "kept").write_text("after!")
        (data / "more").write_text("new")
        assert server.rollback().files > 0
        assert (data / "kept").read_text() == "before" and not (data / "more").exists()


def test_adopted_processes_run_on(tmp_path):
    process = subprocess.Popen([*SERVER, str(tmp_path / "socket")])
    try:
        with relive.spawn(["sleep", "1000"], ready=lambda: (tmp_path / "socket").exists()):
            pass
        with relive.adopt(process.pid) as adopted:
            adopted.snapshot("one")
            assert [one.name for one in adopted.snapshots()] == ["one"]
            assert "relive" in pathlib.Path(f"/proc/{process.pid}/maps").read_text()
            adopted.rollback("one")
        assert process.poll() is None
        assert "relive" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text()
        assert relive.adopt(process.pid).snapshots() == []
    finally:
        process.kill()
        process.wait()


def test_errors_say_what_and_what_next(server):
    with pytest.raises(relive.NotFound, match="has no snapshot"):
        server.rollback("nothing")
    with pytest.raises(ValueError):
        server.rollback()
    with pytest.raises(relive.Usage, match="cannot be a snapshot's name"):
        server.snapshot("a b")
    server.snapshot("one")
    with pytest.raises(relive.Usage, match="already"):
        server.snapshot("one")
    server.snapshot("one", replace=True)
    with pytest.raises(relive.Refused):
        relive.adopt(os.getpid())


def test_refusals_are_named_and_change_nothing(tmp_path):
    with relive.spawn([*SERVER, str(tmp_path / "socket")], ready=str(tmp_path / "socket")) as server:
        client = Client(str(tmp_path / "socket"))
        server.snapshot("one")
        assert client.ask("set color red") == "ok"
        assert client.ask("exec") == "ok"  # executes itself again: refused by name
        wait_until(lambda: Client(str(tmp_path / "socket")).ask("get color") == "")
        with pytest.raises(relive.Refused, match="execve") as caught:
            server.rollback("one")
        assert Client(str(tmp_path / "socket")).ask("set color red") == "ok"
        assert caught.value.report.fate == "untouched"


def test_nothing_is_left_behind_when_it_does_not_get_ready(tmp_path):
    code = "import os,subprocess,time; print('pids', os.getpid(), subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    log = tmp_path / "log"

    def fails_when_it_has_spoken():
        assert not log.read_text().endswith("\n")

    with pytest.raises(AssertionError):
        relive.spawn([sys.executable, "-c", code], ready=fails_when_it_has_spoken, log=log)
    assert all(is_gone(int(pid)) for pid in log.read_text().split()[-2:])
    with pytest.raises(TimeoutError, match="sleep is not ready"):
        relive.spawn(["sleep", "1000"], ready=lambda: False, ready_timeout=0)
    with pytest.raises(RuntimeError, match="ended with status 3"):
        relive.spawn([sys.executable, "-c", "raise SystemExit(3)"], ready="/no/such/socket")
    with pytest.raises(FileNotFoundError):
        relive.spawn(["/no/such/program"])


def test_random_numbers_repeat_unless_the_hook_reseeds(server):
    client = Client(server.path)
    server.snapshot("seeded")
    first = client.ask("random")
    server.rollback()
    assert client.ask("random") == first
    told = []
    server.after_rollback = lambda report: told.append((report.fate, client.ask("reseed")))
    server.rollback()
    assert client.ask("random") != first
    server.rollback(dry_run=True)  # nothing went back
    assert told == [("done", "ok")]


def test_what_was_spawned_is_ended_also_on_failure(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with relive.spawn([*SERVER, str(tmp_path / "socket")], ready=str(tmp_path / "socket")) as server:
            server.snapshot()
            log = server.log
            raise ZeroDivisionError
    assert is_gone(server.pid) and not log.exists()
    assert not list(pathlib.Path(os.environ["RELIVE_RUNTIME_DIR"]).glob(f"{server.pid}-*"))


def test_a_stopped_one_is_ended_too(server):
    server.snapshot()
    os.kill(server.pid, signal.SIGSTOP)


def test_threads_may_share_one(server):
    server.snapshot("one")
    failed = []

    def roll_back():
        try:
            for _ in range(10):
                server.rollback("one")
        except relive.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=roll_back) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_timeout_is_told(tmp_path):
    with relive.spawn([*SERVER, str(tmp_path / "socket")], ready=str(tmp_path / "socket")) as server:
        server.snapshot("one")
        (keeper,) = [int(one.parts[2]) for one in pathlib.Path("/proc").glob("[0-9]*/cmdline")
                     if one.read_bytes().split(b"\0")[1:3] == [b"keeper", str(server.pid).encode()]]
        os.kill(keeper, signal.SIGSTOP)
        try:
            with pytest.raises(relive.TimedOut, match="has not answered"):
                relive.adopt(server.pid, timeout=0.05).rollback("one")
        finally:
            os.kill(keeper, signal.SIGCONT)
        server.rollback("one")


def test_the_program_is_looked_for(server, monkeypatch):
    monkeypatch.setenv("RELIVE_PROGRAM", "/no/such/relive")
    with pytest.raises(relive.NotFound, match="/no/such/relive"):
        server.snapshot()
