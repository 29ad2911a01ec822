#!/usr/bin/env python3
"""usage: protocol.py --build DIR

Speaks the keeper's protocol (docs/protocol.md) with nothing but Python's standard library, and judges the answers.
"""

import argparse
import fcntl
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

# The client: what a program in another language has to do.


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def message(*fields):
    """(number, value) as protobuf: integers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def fields(data):
    """Field number -> its values. Of the wire types only those that keeper.proto needs."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        elif key & 7 != 0:
            raise ValueError(f"wire type {key & 7}")
        found.setdefault(key >> 3, []).append(value)
    return found


class Keeper:
    def __init__(self, pid):
        self.pid = pid
        self.start = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        self.stem = f"{os.environ['RELIVE_RUNTIME_DIR']}/{pid}-{self.start}"

    def exchange(self, payload):
        """Sends bytes as one message; the answer's bytes."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.stem + ".sock")
            connection.sendall(b"rlv1" + struct.pack("<I", len(payload)) + payload)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        magic, length = answer[:4], struct.unpack("<I", answer[4:8])[0]
        assert magic == b"rlv1" and len(answer) == 8 + length, answer[:8]
        return answer[8:]

    def ask(self, command, *options, version=1, pid=None):
        """command: the field's number in Request and Response. The fields of its report, or an Error's as KeyError."""
        request = message((1, version), (2, pid or self.pid), (3, self.start), (command, message(*options)))
        response = fields(self.exchange(request))
        if 2 in response:
            error = fields(response[2][0])
            raise Refused(error.get(1, [0])[0], error[2][0].decode())
        return fields(response[command][0])

    def lock(self):
        file = os.open(self.stem + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, f"pid {os.getpid()} (protocol.py)\n".encode())
        return file

    def unlock(self, file):
        os.unlink(self.stem + ".lock")
        os.close(file)


class Refused(Exception):
    def __init__(self, kind, what):
        super().__init__(f"kind {kind}: {what}")
        self.kind = kind


SNAPSHOT, ROLLBACK, DIFF, LIST, DROP = 10, 11, 12, 13, 15
USAGE, NOT_FOUND, UNSUPPORTED = 0, 1, 5

# The test.


def expect(condition, text):
    if not condition:
        raise SystemExit(f"protocol.py: {text}")


def expect_refusal(kind, act):
    try:
        act()
    except Refused as error:
        expect(error.kind == kind, f"want an error of kind {kind}: {error}")
    else:
        expect(False, f"want an error of kind {kind}, there was none")


COUNTER = "import sys\nsum = 0\nfor line in sys.stdin:\n  sum += int(line)\n  print(sum, flush=True)\n"


def run(build):
    child = subprocess.Popen([sys.executable, "-c", COUNTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def add(number):
        child.stdin.write(f"{number}\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    try:
        expect(add(7) == 7, "the child counts")
        subprocess.run([build / "bin/relive", "snapshot", str(child.pid), "--name", "seven"], check=True, stdout=subprocess.DEVNULL)
        keeper = Keeper(child.pid)
        expect(fields(keeper.ask(LIST)[1][0])[1] == [b"seven"], "one snapshot, seven")
        expect(keeper.ask(SNAPSHOT, (1, b"again"))[2][0] > 0, "frozen_us of a snapshot")
        for round in range(1, 6):
            expect(add(round) == 7 + round, "it goes on from the snapshot")
            expect(len(keeper.ask(DIFF, (1, b"seven"))[1]) > 0, "differences")
            lock = keeper.lock()
            busy = subprocess.run([build / "bin/relive", "rollback", "--to", "seven", str(child.pid)], capture_output=True, text=True)
            expect(busy.returncode == 1 and "protocol.py" in busy.stderr, f"a command finds the lock taken: {busy}")
            report = keeper.ask(ROLLBACK, (1, b"seven"))
            keeper.unlock(lock)
            expect(report.get(1, [0]) == [0] and report[2][0] > 0, "fate done, frozen_us")
            expect(add(0) == 7, "it is back")
        expect_refusal(NOT_FOUND, lambda: keeper.ask(ROLLBACK, (1, b"nothing")))
        expect_refusal(UNSUPPORTED, lambda: keeper.ask(LIST, version=2))
        expect_refusal(USAGE, lambda: keeper.ask(LIST, pid=1))
        for garbage in (b"", b"\xff" * 40, message((1, 1), (2, child.pid), (3, keeper.start))):
            expect(2 in fields(keeper.exchange(garbage)), f"an error for {garbage!r}")
        more = message((1, 1), (2, child.pid), (3, keeper.start), (LIST, b""), (999, b"unknown to this release"))
        expect(LIST in fields(keeper.exchange(more)), "unknown fields are skipped")
        expect(keeper.ask(DROP, (2, 1))[1] == [b"seven", b"again"], "both are dropped")
        expect(add(1) == 8, "it goes on")
    finally:
        child.kill()
        child.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="rp-")
    os.environ["RELIVE_RUNTIME_DIR"] = directory
    try:
        run(options.build)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
