#!/usr/bin/env python3
"""usage: relay.py SOCKET PROGRAM

Starts a victim and passes on what comes over a unix socket, line by line: so all ends of the victim's pipes are in one tree, which
can be made anew from an image."""

import os
import socket
import sys

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
to, back = os.pipe(), os.pipe()
if os.fork() == 0:
    os.dup2(to[0], 0)
    os.dup2(back[1], 1)
    os.execv(sys.argv[2], sys.argv[2:])
os.close(to[0])
os.close(back[1])


def hear():
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(back[0], 65536)
        if not more:
            return b"ended\n"
        line += more
    return line


first = hear()
listener.listen()
while True:
    connection, _ = listener.accept()
    with connection:
        line = connection.recv(65536)
        if line == b"first\n":
            connection.sendall(first)
        else:
            os.write(to[1], line)
            connection.sendall(hear())
