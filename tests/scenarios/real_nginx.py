#!/usr/bin/env python3
"""Debian's nginx taken back a hundred times under wrk's load; it answers after each.

One process, or a master with workers, which are made anew now and then (SIGHUP), or killed: the old ones come back,
as the user that they were.
"""

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess

import harness

ROUNDS = 100
CONNECTIONS = 32

# Whom a master that is root makes its workers: no user has to exist for it.
WORKERS_USER = "www-data" if os.geteuid() == 0 and "www-data" in {entry.pw_name for entry in pwd.getpwall()} else getpass.getuser()

CONFIGURATION = """
daemon off;
master_process {master};
worker_processes {workers};
user {user};
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 50;
  open_file_cache max=20;
  limit_req_zone $binary_remote_addr zone=few:1m rate=1r/m;
  server {{
    listen 127.0.0.1:{port};
    root {directory}/www;
    location = /limited.txt {{ limit_req zone=few; }}
    location /status {{ stub_status; }}
  }}
}}
"""


class Nginx:
    def __init__(self, scene, workers):
        self.workers = workers
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (scene.directory / "www").mkdir()
        for n in range(30):
            (scene.directory / f"www/{n}.txt").write_text(f"page {n}\n" * 200)
        (scene.directory / "www/limited.txt").write_text("let in")
        configuration = scene.directory / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(
            directory=scene.directory, port=self.port, master="on" if workers else "off", workers=max(1, workers), user=WORKERS_USER))
        if os.geteuid() == 0:
            os.chmod(scene.directory, 0o755)  # its workers serve from there
        self.process = scene.start(["nginx", "-c", configuration], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.pid = self.process.pid
        harness.wait_until("nginx answers", self.answers)

    def answers(self):
        harness.expect(self.process.poll() is None, "nginx ended")
        try:
            return self.get("/0.txt")[0] == 200
        except OSError:
            return False

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=harness.PATIENCE_S)

    def get(self, path):
        with self.connect() as connection:
            return self.get_over(connection, path, "close")

    def get_over(self, connection, path, then="keep-alive"):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: {then}\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            length = 0
            while (line := answer.readline()) not in (b"\r\n", b""):
                name, value = line.decode().split(":", 1)
                if name.lower() == "content-length":
                    length = int(value)
            return status, answer.read(length).decode()

    def requests(self):
        return int(self.get("/status")[1].splitlines()[2].split()[2])

    def reload(self):
        """New workers; the old ones end when their connections have."""
        old = set(harness.descendants(self.pid)[1:])
        os.kill(self.pid, signal.SIGHUP)
        harness.wait_until("new workers", lambda: len(set(harness.descendants(self.pid)[1:]) - old) == self.workers)

    def kill_workers(self):
        """They are made again by their master at once; nobody waits for these."""
        for worker in harness.descendants(self.pid)[1:]:
            os.kill(worker, signal.SIGKILL)

    def workers_rights(self):
        """Who they are, and what they may do, as procfs tells it."""
        names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
        workers = harness.descendants(self.pid)[1:]
        return {pid: [harness.Task(pid).status(name) for name in names] + [os.stat(f"/proc/{pid}/mem").st_uid] for pid in workers}

    def check(self):
        for n in (0, 7, 29):
            harness.expect_equal(f"page {n}", self.get(f"/{n}.txt"), (200, f"page {n}\n" * 200))


def test(scene, tracker, words):
    if not shutil.which("nginx") or not shutil.which("wrk"):
        raise harness.Skip("needs nginx: a server to take back, and wrk to load it")
    nginx = Nginx(scene, words.workers)
    nginx.check()
    with nginx.connect() as kept:
        harness.expect_equal("first request of a connection that stays", nginx.get_over(kept, "/1.txt")[0], 200)
        before = nginx.requests()
        rights = nginx.workers_rights()
        scene.snapshot(nginx.pid, "a", tracker)
        harness.expect_equal("first limited request", nginx.get("/limited.txt"), (200, "let in"))
        harness.expect_equal("second limited request", nginx.get("/limited.txt")[0], 503)
        for round_ in range(words.rounds):
            # From here on workers are killed, and others told to end, who tell the peers of idle connections so.
            if round_ == words.rounds // 2:
                scene.rollback(nginx.pid, "a")
                harness.expect_equal("request over the connection that stayed", nginx.get_over(kept, "/2.txt")[0], 200)
            load = scene.start(["wrk", "-t", 2, "-c", CONNECTIONS, "-d", "60s", f"http://127.0.0.1:{nginx.port}/{round_ % 30}.txt"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            harness.wait_until("the load is on", lambda: nginx.requests() > before + 300)
            if round_ % 5 == 0:
                os.kill(nginx.pid, signal.SIGUSR1)  # it opens its logs anew
            second_half = words.workers and round_ >= words.rounds // 2
            if second_half and round_ % 5 == 1:
                nginx.reload()
            if second_half and round_ % 10 in (3, 4):
                nginx.kill_workers()
            silent = round_ % 2 == 0
            if silent:
                load.send_signal(signal.SIGSTOP)  # its connections stand, and it asks nothing anew
            scene.rollback(nginx.pid, "a")
            if silent:
                # What waited in the backlog is served now: one request a connection at most.
                harness.expect(nginx.requests() <= before + 2 * CONNECTIONS, f"round {round_}: the count of requests did not go back")
            harness.end_process(load)
            scene.processes.remove(load)
            harness.expect_equal(f"round {round_}: workers and their rights", nginx.workers_rights(), rights)
            nginx.check()
            harness.expect_equal(f"round {round_}: the zone of limits is back", nginx.get("/limited.txt"), (200, "let in"))
        scene.rollback(nginx.pid, "a")
    scene.drop(nginx.pid)
    nginx.check()


harness.main(test, ("--rounds", {"type": int, "default": ROUNDS}), ("--workers", {"type": int, "default": 0}))
