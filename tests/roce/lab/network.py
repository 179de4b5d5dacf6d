# SPDX-License-Identifier: MIT
"""The Ethernet switch between machines, one process for each rail."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from . import machine

SOURCE = Path(__file__).resolve().parent.parent / "switch.c"


def build(work):
    """The switch's program, compiled when its source is younger."""
    program = work / "roce-switch"
    if program.exists() and program.stat().st_mtime >= SOURCE.stat().st_mtime:
        return program
    temporary = work / f"roce-switch.{os.getpid()}"  # others may be at it, or run the old one
    cc = [shutil.which("cc"), "-std=c11", "-D_GNU_SOURCE", "-O2"]
    subprocess.run([*cc, "-o", temporary, SOURCE], check=True)
    temporary.rename(program)
    return program


def processor_khz(program):
    return int(subprocess.run([program, "--tsc"], capture_output=True, check=True).stdout)


class Switch:
    def __init__(self, program, folder, ports):
        folder.mkdir()
        self.folder = folder
        log = folder / "log"
        self.process = machine.start([str(program), str(folder), str(ports)], log)
        until = time.monotonic() + 20
        while b"ready" not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > until:
                raise machine.Died(f"the switch did not start: {log.read_text()}")
            time.sleep(0.005)
        self.control = socket.socket(socket.AF_UNIX)
        self.control.settimeout(10)
        self.control.connect(str(folder / "ctl"))
        self.answers = self.control.makefile("r")

    def command(self, text):
        self.control.sendall(text.encode() + b"\n")
        answer = self.answers.readline().strip()
        if not answer.startswith("ok"):
            raise ValueError(f"switch, '{text}': {answer}")
        return dict(word.split("=") for word in answer.split()[1:])

    def close(self):
        machine.stop(self.process)
        self.answers.close()
        self.control.close()
