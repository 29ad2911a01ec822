#!/usr/bin/env python3
"""usage: run.py --build DIR [--needs NAME,...] FILE

Runs a file of tests with Debian's pytest, on the library and the program of this build, with keepers of its own. Exit status 77, and
"needs NAME: ...", where a NAME of tests/needs is not here.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PYTHON = "/usr/bin/python3"  # Debian's, which has Debian's packages


def command_of(need):
    return re.search(rf"^{re.escape(need)}\s+(.*)$", (ROOT / "tests/needs").read_text(), re.M)[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--needs", default="")
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    for need in ["pytest", *filter(None, options.needs.split(","))]:
        if subprocess.run(["sh", "-c", command_of(need)], cwd=ROOT, capture_output=True).returncode != 0:
            print(f"needs {need}: for {' '.join(options.words)}")
            return 77
    directory = pathlib.Path(tempfile.mkdtemp(prefix="rpy-"))
    try:
        (directory / "run").mkdir(mode=0o700)
        environment = dict(os.environ, RELIVE_RUNTIME_DIR=str(directory / "run"), PYTHONPATH=str(ROOT / "bindings/python"),
                           RELIVE_LIBRARY=str(options.build / "lib/librelive.so.0"), PYTHONDONTWRITEBYTECODE="1")
        environment.pop("RELIVE_PROGRAM", None)
        pytest = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={directory}/tmp"]
        return subprocess.run([*pytest, *options.words], cwd=HERE, env=environment).returncode
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
