"""usage: late.py SOCKET FIFO. Connects to a keeper, says so, speaks only when somebody has opened FIFO to write, and prints what it is told."""

import socket
import struct
import sys

with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    print("connected", flush=True)
    with open(sys.argv[2]) as go:
        go.read()
    request = b"\x08\x63"  # version 99
    try:
        client.sendall(b"rlv1" + struct.pack("<I", len(request)) + request)
    except BrokenPipeError:
        pass  # it has hung up, and may have said why
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    print(ascii(answer))
