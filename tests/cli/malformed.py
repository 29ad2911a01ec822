"""usage: malformed.py SOCKET. Says what no command would say to a keeper, and waits each time until it hangs up."""

import os
import socket
import struct
import sys

MAGIC = b"rlv1"


def frame(length, body):
    return MAGIC + struct.pack("<I", length) + body


MESSAGES = [
    b"",
    b"GET / HTTP/1.0\r\n\r\n",
    MAGIC,
    frame(0xFFFFFFFF, b""),
    frame(10, b"short"),
    frame(4, b"\xff\xff\xff\xff"),
    frame(0, b""),
    frame(2, b"\x08\x63"),  # version 99
    frame(2, b"\x08\x01"),  # no command
    frame(65536, os.urandom(65536)),
    frame(65537, os.urandom(65537)),
]

for message in MESSAGES:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[1])
        try:
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except ConnectionError:
            pass
