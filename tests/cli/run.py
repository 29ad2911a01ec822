#!/usr/bin/env python3
"""usage: run.py [--build DIR] [--only TEXT] FILE.test...

Runs tests that are written as data. A test is a paragraph of lines; a line that is indented goes on with the one before:

    NAME    what it shows
    VICTIM  KIND         a task to work on, $PID in RUN (victim.py tells the kinds)
    RUN     commands     bash, with build/bin in PATH and the functions of prelude.sh; what stdin, stdout, stderr are is ours
    EXIT    N            the exit status of RUN (0)
    OUT     REGEX        stdout has it; any number of times
    ERR     REGEX        stderr has it; any number of times
    NOERR                stderr is empty
    JSON    WORDS        stdout is JSON and has these keys: fate=untouched error.kind threads
    NEEDS   root         else the test is left out
    ENDS                 the victim may end; otherwise it must be running afterwards, with no tracer

Every test has its own RELIVE_RUNTIME_DIR, which must be empty of sockets once its victim is gone.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 60


class Failure(Exception):
    pass


def read_tests(path):
    tests, test, last = [], None, None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            last = None
            continue
        if line[0].isspace():
            if last is None:
                sys.exit(f"{path}:{number}: an indented line goes on with nothing")
            last[-1] += "\n" + line.strip()
            continue
        word, _, value = line.partition(" ")
        if word == "NAME":
            test = {"FILE": path.name, "LINE": number}
            tests.append(test)
        if test is None or word not in {"NAME", "VICTIM", "RUN", "EXIT", "OUT", "ERR", "NOERR", "JSON", "NEEDS", "ENDS"}:
            sys.exit(f"{path}:{number}: '{word}' is no directive")
        last = test.setdefault(word, [])
        last.append(value.strip())
    return tests


class Victim:
    def __init__(self, kind):
        self.kind = kind
        self.process = subprocess.Popen([sys.executable, "-B", HERE / "victim.py", kind], stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.words = dict(word.split("=") for word in self.process.stdout.readline().split())
        if "PID" not in self.words:
            raise Failure(f"the victim '{kind}' does not begin")
        self.pid = int(self.words["PID"])
        want = {"sleep": ("comm", "sleep\n"), "stop": ("stat", ") T ")}.get(kind)
        end = time.monotonic() + PATIENCE_S
        while want and want[1] not in pathlib.Path(f"/proc/{self.pid}/{want[0]}").read_text():
            if time.monotonic() > end:
                raise Failure(f"the victim '{kind}' does not get ready")
            time.sleep(0.005)

    def judge(self):
        """It goes on as if nothing had been asked."""
        try:
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            raise Failure("the victim has ended")
        state = re.search(r"State:\s+(\w)", status)[1]
        tracer = int(re.search(r"TracerPid:\s+(\d+)", status)[1])
        allowed = {"zombie": "Z", "stop": "T"}.get(self.kind, "SRD")
        if state not in allowed or (tracer != 0) != (self.kind == "traced"):
            raise Failure(f"the victim is left in state {state}, traced by {tracer}")

    def end(self):
        for pid in {self.pid, self.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process.stdout.close()


def keepers(runtime):
    mark = f"RELIVE_RUNTIME_DIR={runtime}".encode()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0") and b"keeper" in (entry / "cmdline").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:
            continue


def check_json(text, wanted):
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise Failure(f"stdout is not JSON: {error}")
    for word in wanted.split():
        path, _, value = word.partition("=")
        node = whole
        for part in path.split("."):
            if isinstance(node, list):
                if not node:
                    raise Failure(f"{path}: the list is empty")
                node = node[0]
            if not isinstance(node, dict) or part not in node:
                raise Failure(f"JSON lacks {path}")
            node = node[part]
        if value and str(node).lower() != value.lower():
            raise Failure(f"JSON {path} is {node}, want {value}")


def check(test, done):
    want = int(test.get("EXIT", ["0"])[0])
    if done.returncode != want:
        raise Failure(f"exit status {done.returncode}, want {want}")
    for word, text in (("OUT", done.stdout), ("ERR", done.stderr)):
        for pattern in test.get(word, []):
            if not re.search(pattern, text, re.M):
                raise Failure(f"{word} lacks: {pattern}")
    if "NOERR" in test and done.stderr:
        raise Failure("stderr is not empty")
    for wanted in test.get("JSON", []):
        check_json(done.stdout, wanted)


def run_script(script, environment, folder):
    """Ends everything that the script started and that stayed in its process group."""
    bash = subprocess.Popen(["bash", "-c", script], env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = bash.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(script, bash.returncode, out, err)
    finally:
        try:
            os.killpg(bash.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        bash.communicate()


def run_test(test, build):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="rc-"))
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    environment = dict(os.environ, RELIVE_RUNTIME_DIR=str(runtime), PATH=f"{build}/bin:{os.environ['PATH']}", NO_COLOR="", TERM="dumb", DIR=str(folder), TESTS=str(HERE))
    environment.pop("RELIVE_FAULT", None)
    victim, done = None, None
    try:
        if "VICTIM" in test:
            victim = Victim(test["VICTIM"][0])
            environment.update(victim.words)
        script = f". {HERE}/prelude.sh\nset -euo pipefail\n{test['RUN'][0]}\n"
        done = run_script(script, environment, folder)
        check(test, done)
        if victim and "ENDS" not in test:
            victim.judge()
    except (Failure, subprocess.TimeoutExpired) as failure:
        text = f"{failure}\n    $ " + test["RUN"][0].replace("\n", "\n      ")
        if done:
            text += f"\n    exit {done.returncode}\n    out: {done.stdout.strip()}\n    err: {done.stderr.strip()}"
        return text
    finally:
        if victim:
            victim.end()
        end = time.monotonic() + 10
        while (left := list(keepers(runtime))) and time.monotonic() < end:
            time.sleep(0.01)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        files = [path.name for path in runtime.glob("*.sock")]
        shutil.rmtree(folder, ignore_errors=True)
    if left:
        return f"keepers stayed after their task: {left}"
    if files and "ENDS" not in test:
        return f"files stayed: {files}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=HERE.parents[1] / "build", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    words = parser.parse_args()
    bad = 0
    for test in [test for path in words.files for test in read_tests(path)]:
        name = f"{test['FILE']}:{test['LINE']}: {test['NAME'][0]}"
        if words.only not in name:
            continue
        if "root" in test.get("NEEDS", []) and os.geteuid() != 0:
            print(f"left out  {name}: needs root", flush=True)
            continue
        problem = run_test(test, words.build.resolve())
        bad += problem is not None
        print(f"{'FAILED' if problem else 'ok'}  {name}" + (f"\n    {problem}" if problem else ""), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
