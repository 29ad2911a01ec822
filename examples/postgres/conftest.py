"""One PostgreSQL for all tests: started, filled, and put back before each of them."""

import os
import pathlib
import pwd
import shutil
import subprocess

import psycopg2
import pytest
import relive

HERE = pathlib.Path(__file__).parent
PROGRAMS = pathlib.Path("/usr/lib/postgresql/15/bin")


def as_postgres():
    """PostgreSQL does not run as root."""
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"] if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def relive_stack(tmp_path_factory):
    if not (PROGRAMS / "postgres").exists():
        pytest.skip("PostgreSQL 15 is not installed")
    # A socket's path is short, and all directories above it must be open to the server's user.
    directory = pathlib.Path(f"/tmp/shop-{os.getpid()}")
    directory.mkdir()
    if as_postgres():
        shutil.chown(directory, pwd.getpwnam("postgres").pw_uid)
    data = directory / "data"
    try:
        subprocess.run([*as_postgres(), PROGRAMS / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"], check=True, cwd=directory,
                       stdout=subprocess.DEVNULL)
        command = [*as_postgres(), PROGRAMS / "postgres", "-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "fsync=off"]
        with relive.spawn(command, ready=f"{directory}/.s.PGSQL.5432", files=[data], cwd=directory) as server:
            server.connection = connect(directory)
            with server.connection.cursor() as cursor:
                cursor.execute((HERE / "schema.sql").read_text())
                cursor.execute((HERE / "seed.sql").read_text())
                cursor.execute("vacuum analyze")
                cursor.execute("checkpoint")
            yield server
            server.connection.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def connect(directory):
    """It may take connections some time before it lets anybody in."""
    while True:
        try:
            connection = psycopg2.connect(host=str(directory), user="postgres", dbname="postgres")
        except psycopg2.OperationalError as error:
            if "starting up" not in str(error):
                raise
            continue
        connection.autocommit = True
        return connection


@pytest.fixture
def ask(relive_stack):
    """Asks the server over the connection that all tests use: rows, or nothing for a command."""

    def ask(text, *values):
        with relive_stack.connection.cursor() as cursor:
            cursor.execute(text, values)
            return cursor.fetchall() if cursor.description else []

    return ask
