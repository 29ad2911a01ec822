"""What every scenario stands on: the commands of relive, processes to work on, and evidence when something fails.

A Scene is one test's world: a directory of its own (also RELIVE_RUNTIME_DIR), the processes started in it, and a log of
every command with its output. Leaving it ends every process by its pid, keepers included, whatever happened.
"""

import argparse
import json
import os
import pathlib
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 90  # how long an answer may take before a scenario gives up on it
SKIPPED = 77  # the exit status that ctest takes for a skip


class Failure(Exception):
    """A scenario's expectation that did not hold."""


class Skip(Exception):
    """Cannot be run here: "needs NAME: why", NAME of tests/needs."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def expect_equal(what, got, want):
    expect(got == want, f"{what}: {got!r}, want {want!r}")


def wait_until(what, condition, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not (result := condition()):
        if time.monotonic() > end:
            raise Failure(f"waited {patience_s} s in vain: {what}")
        time.sleep(0.01)
    return result


class Task:
    """Facts about a process, from procfs."""

    def __init__(self, pid):
        self.pid = pid

    def path(self, name):
        return pathlib.Path(f"/proc/{self.pid}/{name}")

    def threads(self):
        return sorted(int(entry.name) for entry in self.path("task").iterdir())

    def maps(self):
        """The mappings as lines. Read through a thread: a leader that has ended shows none."""
        for tid in reversed(self.threads()):
            if text := self.path(f"task/{tid}/maps").read_text():
                return text.splitlines()
        return []

    def descriptors(self):
        found = {}
        folder = self.path(f"task/{self.threads()[-1]}/fd")
        for entry in folder.iterdir():
            try:
                found[int(entry.name)] = os.readlink(entry)
            except OSError:
                continue
        return found

    def status(self, name):
        for line in self.path("status").read_text().splitlines():
            if line.startswith(name + ":"):
                return line.split(None, 1)[1].strip()
        return None

    def rss_pages(self):
        return int(self.path("statm").read_text().split()[1])

    def state(self):
        return self.status("State")[0]

    def tracer(self):
        return int(self.status("TracerPid"))


# Runs a command as nobody, whoever we are.
AS_ORDINARY_USER = [] if os.geteuid() != 0 else ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]


class Scene:
    """With ordinary_user, every process of it is started without privileges."""

    def __init__(self, build, name, ordinary_user=False):
        self.build = pathlib.Path(build)
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="rs-"))  # short: sockets have their names in it
        self.runtime = self.directory / "run"
        self.runtime.mkdir(mode=0o700)
        self.log = []
        self.name = name
        self.processes = []
        self.environment = dict(os.environ, RELIVE_RUNTIME_DIR=str(self.runtime), RELIVE_LOG="debug")
        self.prefix = AS_ORDINARY_USER if ordinary_user else []
        if self.prefix:
            for path in (self.directory, self.runtime):
                os.chown(path, 65534, 65534)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and kind is not Skip:
            self.show_evidence(error)
        for process in self.processes:
            end_process(process)
        ended = self.wait_for_keepers(5)
        for pid in self.keepers():
            os.kill(pid, signal.SIGKILL)
        self.wait_for_keepers(10)
        shutil.rmtree(self.directory, ignore_errors=True)
        if kind is None and not ended:
            raise Failure("a keeper did not end with its task")

    def show_evidence(self, error):
        print(f"--- {self.name}: {error!r}", flush=True)
        for line in self.log[-60:]:
            print("   ", line)
        for process in self.processes:
            task = Task(process.pid)
            try:
                print(f"    pid {process.pid}: exit {process.poll()}, state {task.status('State')}, threads {task.threads()}")
                for tid in task.threads()[:40]:
                    print(f"      {tid}: {task.path(f'task/{tid}/syscall').read_text().strip()}")
            except OSError as gone:
                print(f"    pid {process.pid}: exit {process.poll()}: {gone}")
        for keeper in self.keepers():
            print(f"    keeper {keeper}: state {Task(keeper).status('State')}")
        for log in self.runtime.glob("*.log"):
            print(f"    {log.name}: {log.read_text()[-3000:]}")
        print(f"--- again: {' '.join(sys.argv)}", flush=True)

    def note(self, text):
        self.log.append(text)

    def start(self, words, **more):
        more.setdefault("cwd", self.directory)
        more.setdefault("env", self.environment)
        process = subprocess.Popen([str(w) for w in [*self.prefix, *words]], start_new_session=True, **more)
        self.note(f"started {words} as {process.pid}")
        self.processes.append(process)
        return process

    def run(self, *words, patience_s=PATIENCE_S):
        """Runs a command to its end: (exit status, stdout, stderr). Everything goes into the log."""
        self.note("$ " + " ".join(str(w) for w in words))
        done = subprocess.run([str(w) for w in [*self.prefix, *words]], env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=patience_s)
        out, err = (" ".join(text.split()) for text in (done.stdout, done.stderr))
        self.note(f"  -> {done.returncode} {out[:3000]} {err[:2000]}")
        return done.returncode, out, err

    def relive(self, *words):
        """A command of relive, which must succeed, with --json; its object."""
        status, out, err = self.run(self.build / "bin/relive", *words, "--json")
        expect(status == 0, f"relive {' '.join(str(w) for w in words)}: exit {status}: {err[:1000] or out[:1000]}")
        return json.loads(out)

    def snapshot(self, pid, name, tracker=None, *more):
        return self.relive("snapshot", pid, "--name", name, "--take-events", *(["--tracker", tracker] if tracker else []), *more)

    def rollback(self, pid, name):
        report = self.relive("rollback", "--to", name, pid)
        expect_equal("fate", report["fate"], "done")
        for key in ("frozen_us", "total_us", "tasks", "threads", "pages", "mappings", "descriptors", "tracker"):
            expect(key in report, f"the report lacks {key}")
        return report

    def drop(self, pid):
        """Drops every snapshot: nothing of relive's may be left in the task, and its keeper must end."""
        self.relive("drop", "--all", pid)
        task = Task(pid)
        left = [line for line in task.maps() if "relive" in line or "userfaultfd" in line]
        expect(not left, f"left in maps: {left}")
        left = {fd: link for fd, link in task.descriptors().items() if "relive" in link or "userfaultfd" in link}
        expect(not left, f"left in fd: {left}")
        wait_until("the tracer is gone", lambda: task.tracer() == 0)
        expect(self.wait_for_keepers(10), f"keepers stay after the last drop: {self.keepers()}")

    def keepers(self):
        """Keepers of this scene: processes that look at its runtime directory and are none that it started."""
        mark = f"RELIVE_RUNTIME_DIR={self.runtime}".encode()
        mine = {process.pid for process in self.processes}
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in mine:
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if mark in (entry / "environ").read_bytes().split(b"\0") and b"keeper" in words:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def wait_for_keepers(self, patience_s):
        end = time.monotonic() + patience_s
        while self.keepers():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


def descendants(pid):
    """Of a process, itself first, as they are now."""
    found = [pid]
    for parent in found:
        try:
            for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def end_process(process):
    """With what it has started: a child that a rollback has made again is a child of its parent like any other."""
    tree = descendants(process.pid)[1:] if process.poll() is None else []
    if process.poll() is None:
        process.kill()
    process.wait()
    for pid in tree:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for pid in tree:
        wait_until(f"process {pid} has ended", lambda pid=pid: not pathlib.Path(f"/proc/{pid}").exists() or Task(pid).state() == "Z", 10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            try:
                stream.close()
            except OSError:
                pass


class LineProcess:
    """A process that answers one line with one line: a victim (tests/victims/victim.h)."""

    def __init__(self, scene, words, **more):
        self.scene = scene
        self.process = scene.start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **more)
        self.pid = self.process.pid
        self.task = Task(self.pid)
        self.rest = b""
        first = self.hear()
        if first.startswith("SKIP: "):
            raise Skip(first[6:])
        expect_equal("first word", first, "ready")

    def say(self, line):
        self.scene.note(f"{self.pid} < {line}")
        self.process.stdin.write(line.encode() + b"\n")

    def hear(self, patience_s=PATIENCE_S):
        end = time.monotonic() + patience_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                if not selector.select(max(0, end - time.monotonic())):
                    raise Failure(f"process {self.pid} does not answer")
                more = os.read(self.process.stdout.fileno(), 65536)
                if not more:
                    raise Failure(f"process {self.pid} ended: {self.process.wait()}")
                self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        text = line.decode(errors="replace")
        self.scene.note(f"{self.pid} > {text[:3000]}")
        return text

    def ask(self, line):
        self.say(line)
        return self.hear()

    def verify(self, state=0):
        expect_equal("verify", self.ask(f"verify {state}"), "PASS")

    def wreck(self, how=0):
        expect_equal("wreck", self.ask(f"wreck {how}"), "wrecked")

    def become(self, state):
        expect_equal("become", self.ask(f"become {state}"), f"became {state}")


def victim(scene, name):
    return LineProcess(scene, [scene.build / "bin/victims" / name])


def trackers(scene):
    """The trackers to test: RELIVE_TRACKERS (comma-separated), or all that work here."""
    if named := os.environ.get("RELIVE_TRACKERS"):
        return named.split(",")
    checks = {c["name"]: c["ok"] for c in scene.relive("doctor")["checks"]}
    found = [name.removeprefix("tracker ") for name, ok in checks.items() if name.startswith("tracker ") and ok]
    expect("compare" in found, f"doctor knows no tracker: {found}")
    return found


def main(test, *arguments, ordinary_user=False):
    """Runs test(scene, tracker, parsed arguments) once for each tracker, in a scene of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=pathlib.Path(__file__).resolve().parents[2] / "build")
    for name, options in arguments:
        parser.add_argument(name, **options)
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that scenes are left in order
    try:
        with Scene(words.build, "doctor", ordinary_user) as scene:
            chosen = trackers(scene)
        for tracker in chosen:
            start = time.monotonic()
            with Scene(words.build, tracker, ordinary_user) as scene:
                test(scene, tracker, words)
            print(f"{tracker}: good, {time.monotonic() - start:.1f} s", flush=True)
    except Skip as skip:
        print(f"skipped: {skip}")
        sys.exit(SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}")
        sys.exit(1)
