#!/usr/bin/env python3
"""An interactive bash on a pseudo-terminal, taken back in the middle of a command line: typing on gives the right command."""

import fcntl
import os
import select
import shutil
import struct
import termios
import time

import harness

ROUNDS = 5


class Typist:
    """Holds the master and types at bash, which is the leader of a session on the slave."""

    def __init__(self, scene):
        self.master, slave = os.openpty()
        self.path = os.ttyname(slave)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
        environment = dict(scene.environment, PS1="ready> ", TERM="dumb", HISTFILE="", INPUTRC="/dev/null")
        path = self.path

        def take_terminal():  # start_new_session came before: opening it makes it the controlling one
            os.close(os.open(path, os.O_RDWR))

        self.process = scene.start(["/bin/bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environment, preexec_fn=take_terminal)
        os.close(slave)
        self.seen = ""
        self.scene = scene
        self.wait_for("ready> ")
        self.type("bind 'set enable-bracketed-paste off'; x=0\n")
        self.wait_for("ready> ")

    def type(self, text):
        self.scene.note(f"typed {text!r}")
        os.write(self.master, text.encode())

    def wait_for(self, text, patience_s=harness.PATIENCE_S):
        """Reads the screen up to `text`, which is taken; what came before it is the answer."""
        end = time.monotonic() + patience_s
        while text not in self.seen:
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise harness.Failure(f"bash does not show {text!r}: {self.seen!r}")
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        before, self.seen = self.seen.split(text, 1)
        self.scene.note(f"saw {before + text!r}")
        return before

    def modes(self):
        return termios.tcgetattr(self.master)

    def window(self):
        return fcntl.ioctl(self.master, termios.TIOCGWINSZ, bytes(8))

    def foreground(self):
        return os.tcgetpgrp(self.master)


def test(scene, tracker, words):
    if shutil.which("bash") is None:
        raise harness.Skip("needs bash: an interactive shell")
    typist = Typist(scene)
    pid = typist.process.pid
    typist.type("echo the answer is 4")
    typist.wait_for("is 4")  # readline has it, and waits for the next key in raw mode
    scene.snapshot(pid, "typing", tracker)
    before = (typist.modes(), typist.window(), typist.foreground())
    harness.expect_equal("group in the foreground", before[2], pid)
    harness.expect(not before[0][3] & termios.ICANON, "bash does not edit lines")

    for how in range(ROUNDS):
        if how % 2 == 0:  # another end of the line, other variables, other modes
            typist.type("444\n")
            typist.wait_for("answer is 4444")
            typist.wait_for("ready> ")
            typist.type("stty rows 11 columns 33 -echoctl erase '^h'; x=$((x + 1)); echo x is $x\n")
            typist.wait_for("x is 1\r\n")  # not more: x went back, too
            typist.wait_for("ready> ")
        else:  # in the middle of another line
            typist.type("\x15")  # ^U
            typist.type(f"echo {'long ' * how}")
            typist.wait_for("long " * how)
        scene.rollback(pid, "typing")
        harness.expect_equal("modes, window, foreground", (typist.modes(), typist.window(), typist.foreground()), before)
        typist.seen = ""
        typist.type("2\n")
        typist.wait_for("the answer is 42\r\n")
        typist.wait_for("ready> ")
        scene.rollback(pid, "typing")

    scene.drop(pid)
    typist.type("\x15exit\n")
    typist.process.wait(harness.PATIENCE_S)
    os.close(typist.master)


harness.main(test)
