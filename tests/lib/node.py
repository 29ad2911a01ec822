#!/usr/bin/env python3
"""usage: node.py --build DIR

Runs bindings/node's example with node's own test runner, on the program of this build, with keepers of its own.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

BINDING = pathlib.Path(__file__).resolve().parent.parent.parent / "bindings/node"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    build = parser.parse_args().build
    if shutil.which("node") is None:
        print("needs node: its test runner")
        return 77
    directory = tempfile.mkdtemp(prefix="rn-")
    try:
        environment = dict(os.environ, RELIVE_RUNTIME_DIR=directory, RELIVE_PROGRAM=str(build / "bin/relive"), TMPDIR=directory)
        return subprocess.run(["node", "--test"], cwd=BINDING, env=environment).returncode
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
