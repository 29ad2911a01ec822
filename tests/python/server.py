"""A small server: lines over a unix socket. set NAME VALUE, get NAME, random, exec."""

import os
import random
import select
import socket
import sys


def answer(words, values):
    if words[0] == "set":
        values[words[1]] = words[2]
        return "ok"
    if words[0] == "get":
        return values.get(words[1], "")
    if words[0] == "random":
        return str(random.random())
    if words[0] == "reseed":
        random.seed()
        return "ok"
    if words[0] == "exec":
        return "exec"
    return "?"


def main(path):
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("socket:", path, flush=True)
    clients, values = {}, {}
    while True:
        for one in select.select([listener, *clients], [], [])[0]:
            if one is listener:
                client = listener.accept()[0]
                clients[client] = b""
                continue
            data = one.recv(4096)
            if not data:
                del clients[one]
                one.close()
                continue
            *lines, clients[one] = (clients[one] + data).split(b"\n")
            for line in lines:
                said = answer(line.decode().split(), values)
                if said == "exec":
                    one.sendall(b"ok\n")
                    os.execv(sys.executable, [sys.executable, *sys.argv])
                one.sendall(said.encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
