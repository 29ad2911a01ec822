"""usage: on_terminal.py COMMAND... Runs a command whose stdout is a terminal; says what it said there, escapes as text."""

import os
import pty
import subprocess
import sys

ours, theirs = pty.openpty()
command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=theirs)
os.close(theirs)
said = b""
try:
    while more := os.read(ours, 65536):
        said += more
except OSError:  # EIO: the last one that had the terminal open has closed it
    pass
print(said.replace(b"\033", b"<ESC>").decode(errors="replace"))
sys.exit(command.wait())
