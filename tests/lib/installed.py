#!/usr/bin/env python3
"""usage: installed.py --build DIR

Installs into a directory of its own and uses the library from there, as a stranger does: found by pkg-config, and by CMake. The keeper's
program is the one beside it. Only the functions of relive.h may be seen in it.
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

CMAKE = """cmake_minimum_required(VERSION 3.25)
project(stranger C)
find_package(relive 0.1 REQUIRED)
find_package(Threads REQUIRED)
add_executable(stranger consumer.c)
target_link_libraries(stranger relive::relive Threads::Threads)
"""


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"installed.py: {' '.join(map(str, words))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_symbols(library):
    shown = {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--defined-only", library).splitlines()}
    declared = set(re.findall(r"RELIVE_API [^(]*?(relive_\w+)\(", (HERE.parent.parent / "lib/relive.h").read_text()))
    if shown - {"LIBRELIVE_0"} != declared:
        sys.exit(f"installed.py: shown, not declared: {shown - declared}; declared, not shown: {declared - shown}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    build = parser.parse_args().build
    directory = pathlib.Path(tempfile.mkdtemp(prefix="ri-"))
    try:
        prefix, source = directory / "prefix", directory / "source"
        configured = (build / "CMakeCache.txt").read_text()
        library_directory = re.search(r"^CMAKE_INSTALL_LIBDIR:PATH=(.*)$", configured, re.M)[1]
        for component in ("program", "library", "development"):
            run("cmake", "--install", build, "--prefix", prefix, "--component", component)
        source.mkdir()
        shutil.copy(HERE / "consumer.c", source)
        (source / "CMakeLists.txt").write_text(CMAKE)
        (directory / "run").mkdir(mode=0o700)
        libraries = prefix / library_directory
        environment = dict(os.environ, RELIVE_RUNTIME_DIR=str(directory / "run"), LD_LIBRARY_PATH=str(libraries))
        environment.pop("RELIVE_PROGRAM", None)
        check_symbols(libraries / "librelive.so")

        words = run("pkg-config", f"--define-variable=prefix={prefix}", f"--define-variable=libdir={libraries}",
                    f"--define-variable=includedir={prefix}/include", "--cflags", "--libs", "relive",
                    env=dict(environment, PKG_CONFIG_PATH=str(libraries / "pkgconfig"))).split()
        run("gcc-12", "-std=gnu17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", source / "consumer.c", "-o", directory / "by-pkg-config", *words, "-pthread")
        run(directory / "by-pkg-config", env=environment)

        run("cmake", "-G", "Ninja", "-S", source, "-B", directory / "cmake", "-DCMAKE_C_COMPILER=gcc-12", f"-DCMAKE_PREFIX_PATH={prefix}")
        run("cmake", "--build", directory / "cmake")
        run(directory / "cmake/stranger", env=environment)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
